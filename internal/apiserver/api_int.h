/* api_int — what the files of the API server share.
 *
 * One request is one struct api_call: it is made when the head arrives and freed when both the connection is through with
 * it and no commit is under way. Objects are reference-counted immutable bytes (struct api_obj) in a cache per resource.
 */
#ifndef KF_API_INT_H
#define KF_API_INT_H

#include "internal/apiserver/apiserver.h"
#include "internal/base/rand.h"
#include "internal/http/http.h"
#include "internal/kube/kube.h"
#include "internal/log/log.h"
#include "internal/store/store.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    LIM_API_RING = 4096,           /* events kept a resource, */
    LIM_API_RING_BYTES = 8 << 20,  /* and the bytes of their objects */
    LIM_API_BODY = 3 << 20,        /* upstream's limit of request bodies */
    LIM_API_CALL = 64 << 20,       /* memory of one request */
    LIM_API_LIST = 1 << 30,        /* bytes of one list answer */
    LIM_API_WATCH_PENDING = 4 << 20, /* unsent bytes at which a watch stops reading its ring */
    LIM_API_WARNINGS = 16,
    LIM_CACHE_OBJS = 1 << 26,      /* objects of one resource */
    API_AGAIN_MS = 1000,           /* after reading the store or writing the first objects failed */
    LIM_API_RETRIES = 32,          /* of patches and deletes that lost a race */
    LIM_API_GROUPS = 64,
    LIM_API_TOKENS = 256, /* whose signatures need not be verified again */
};

/* ---- objects and caches ------------------------------------------------------------------------------------- */

struct api_obj {
    uint32_t refs;
    uint32_t key_n, ns_n; /* key is "ns/name" or "name" */
    uint32_t n;           /* bytes of JSON */
    int64_t rv, create_rev;
    char data[]; /* key, then JSON */
};
static inline struct span api_obj_key(const struct api_obj *o) {
    return span_of(o->data, o->key_n);
}
static inline struct span api_obj_json(const struct api_obj *o) {
    return span_of(o->data + o->key_n, o->n);
}
static inline struct span api_obj_ns(const struct api_obj *o) {
    return span_of(o->data, o->ns_n);
}
static inline struct span api_obj_name(const struct api_obj *o) {
    size_t skip = o->ns_n ? o->ns_n + 1u : 0u;
    return span_of(o->data + skip, o->key_n - skip);
}
static inline struct api_obj *api_obj_ref(struct api_obj *o) {
    o->refs++;
    return o;
}
void api_obj_unref(struct api_obj *o); /* NULL is allowed */

enum api_event_type { API_ADDED, API_MODIFIED, API_DELETED };
struct api_event {
    int64_t rv;
    uint64_t at_ns;
    enum api_event_type type;
    struct api_obj *obj;  /* DELETED: the last state with the revision of the deletion */
    struct api_obj *prev; /* NULL for ADDED */
    /* Made when a watch needs them, forgotten before the loop sleeps. */
    struct json_doc *doc, *prev_doc;
    struct api_frame *frames;
};

struct api_frame;
struct net_blob;

/* One stored resource: a sorted cache and the recent events. */
struct api_res {
    const struct kube_resource *kr; /* the stored version's */
    char *prefix;                   /* "/registry/core/pods/" */
    size_t prefix_n;
    size_t head_n; /* length of `{"kind":"Pod","apiVersion":"v1",` */
    struct api_obj **objs;
    size_t n, cap;
    struct api_obj **fresh; /* while everything is read again */
    size_t n_fresh, cap_fresh;
    /* Ring of events: number `first` is the oldest kept, `next` the one to come. */
    struct api_event *ring;
    size_t ring_cap; /* a power of two */
    uint64_t first, next;
    size_t ring_bytes;
    int64_t ring_from; /* every event after this revision is in the ring */
    int64_t last_rv;   /* revision of the last change (or of the load) */
    uint64_t use_from, use_to; /* events that watches have used since the loop slept, if in_use */
    bool in_use;
    struct list watches;
    bool dirty; /* watches wait to be told */
    unsigned generation; /* counts changes: derived tables compare it */
};

struct api_obj *api_cache_get(const struct api_res *res, struct span key); /* borrowed, or NULL */
struct api_obj *api_cache_find(const struct api_res *res, const char *ns, const char *name);
/* Objects of [*from, *to) are those of the namespace (NULL: all). */
void api_cache_span(const struct api_res *res, const char *ns, size_t *from, size_t *to);
size_t api_cache_lower(const struct api_res *res, struct span key); /* first position not before key */
void api_ring_trim(struct api_res *res, uint64_t before_ns); /* forgets older events */
/* Reads all objects, takes them over, follows their changes; then writes the first objects if nobody has yet. */
NODISCARD int api_cache_load(struct apiserver *a, struct err *e);
void api_cache_later(struct apiserver *a, uint64_t after_ns); /* the same after a while */
void api_cache_free(struct apiserver *a);
NODISCARD int api_obj_parse(const struct api_obj *o, struct json_doc **ret); /* new document */
/* Object made of stored bytes at a revision (not in the cache). */
struct api_obj *api_obj_new(struct span key, size_t ns_n, struct span stored, int64_t rv, int64_t create_rev);
/* The same object as of another revision. */
struct api_obj *api_obj_at_rv(const struct api_obj *o, int64_t rv);
const struct api_event *api_ring_at(const struct api_res *res, uint64_t seq);

/* Shorthands for well-known resources; NULL only when the kube tables lack them. */
struct api_res *api_res_find(const struct apiserver *a, const char *group, const char *resource);
struct api_res *api_res_of(const struct apiserver *a, const struct kube_resource *kr);
bool api_serves(const struct apiserver *a, const struct kube_resource *kr);

/* ---- identities ------------------------------------------------------------------------------------------------ */

struct api_extra {
    const char *key, *value;
};
struct api_user {
    const char *name, *uid;
    const char *groups[LIM_API_GROUPS];
    size_t n_groups;
    struct api_extra extra[8];
    size_t n_extra;
};
bool api_user_in(const struct api_user *u, const char *group);
void api_user_group(struct api_user *u, const char *group); /* adds once */

/* What is asked for, as authorizers see it. resource NULL: `path` is asked for. "" is the empty value elsewhere. */
struct api_attrs {
    const struct api_user *user;
    const char *verb;
    const char *group, *version, *resource, *sub, *ns, *name;
    const char *path;
};
bool api_authorize(struct apiserver *a, const struct api_attrs *t);
bool api_rbac_allows(struct apiserver *a, const struct api_attrs *t);
/* Rules of the user in a namespace as SelfSubjectRulesReview lists them. */
void api_rbac_rules(struct apiserver *a, const struct api_user *u, const char *ns, struct json_doc *d,
                    struct json *resource_rules, struct json *non_resource_rules);
void api_rbac_free(struct apiserver *a);
/* May the user hand out these rules? Otherwise *ret_missing describes what it lacks, in the arena. */
bool api_rbac_covers(struct apiserver *a, const struct api_user *u, const char *ns, const struct json *rules,
                     struct arena *mem, const char **ret_missing);
const struct json *api_rbac_role_rules(struct apiserver *a, const char *ns, const char *kind, const char *name,
                                       struct json_doc **ret_doc);

/* ---- one request ------------------------------------------------------------------------------------------------ */

enum api_verb {
    API_V_GET, API_V_LIST, API_V_WATCH, API_V_CREATE, API_V_UPDATE, API_V_PATCH, API_V_DELETE, API_V_DELETECOLLECTION,
    API_V_OTHER,
};

struct api_target {
    bool is_resource;       /* under /api/v1 or /apis/g/v with a resource */
    const char *group, *version, *resource, *ns, *name, *sub; /* "" when not given; never NULL */
    const char *rest;       /* path behind the subresource, for proxies; "" */
    const char *path;       /* decoded path without trailing slash */
    bool legacy_watch;      /* /api/v1/watch/... */
    enum api_verb verb;
};
/* Fills *ret from method and path; strings live in the arena. -ERR_INVALID for undecodable paths. */
NODISCARD int api_route(struct span method, struct span path, bool has_watch, struct arena *mem, struct api_target *ret);
const char *api_verb_name(enum api_verb v);

enum api_as { API_AS_OBJECT, API_AS_TABLE, API_AS_META };
enum api_media { API_JSON, API_YAML, API_PB };
struct api_out {
    enum api_media media;
    enum api_as as;
    const char *as_version; /* "v1" or "v1beta1" of meta.k8s.io */
    bool pretty;
    bool json_too; /* the client takes JSON where there is no protobuf form */
    bool include_none, include_object; /* of tables */
    bool rows_only; /* tables after the first of a watch */
};
/* Chooses from an Accept header; false: 406. */
bool api_negotiate(struct span accept, struct api_out *ret, bool *ret_discovery_v2);

/* A change that is committed together with that of the object. */
struct api_extra_op {
    struct span key;
    struct span value; /* .p NULL: delete */
    int64_t rev;       /* -1: no comparison; 0: must not exist */
};

struct api_call {
    struct apiserver *a;
    struct list link;
    struct http_req *r; /* NULL once the request is over */
    struct arena mem;
    struct json_doc *doc; /* whatever is built for this request */
    struct api_target t;
    const struct kube_resource *kr; /* the resource or subresource asked for */
    const struct kube_resource *main; /* the resource itself */
    struct api_res *res;
    struct api_user user;
    const char *user_agent;
    struct api_out out;
    struct span body;
    enum api_media body_media;
    const char *warnings[LIM_API_WARNINGS];
    size_t n_warnings;
    unsigned busy; /* commits and other callbacks under way */
    bool answered, nosniff, retry_after;
    bool discovery_v2, not_acceptable;
    unsigned tries;
    struct list retry_link; /* lost a race */
    struct list turn_link;  /* waits for a commit of the same object */
    void (*turn)(struct api_call *c);
    bool generated;               /* the name was made from generateName */
    bool again_on_conflict, pinned, created;
    const struct kube_resource *form; /* version of the tree given to api_commit */
    struct json *gone_tree;
    struct api_extra_op ops[8]; /* go into the next commit */
    size_t n_ops;
    void *svc_hold; /* service addresses chosen by this request */
    /* write options */
    bool dry_run, force;
    const char *field_manager;
    enum kube_field_validation fv;
    const char *time; /* now, RFC 3339 */
    const char *obj_name; /* of the object being written, for messages; NULL: t.name */
    struct json_doc *patch_doc; /* parsed body of PATCH */
    struct json *old;   /* the object as it was, in the form of kr */
    void *state;        /* of the running operation, in mem */
    void (*reply)(struct api_call *c, unsigned status, const struct api_obj *now); /* NULL: the object */
    void (*again)(struct api_call *c);  /* repeats the operation after a lost race */
    void (*closed)(struct api_call *c); /* the request ended under a running operation */
    void (*next)(struct api_call *c);   /* after the body */
};

void api_call_start(struct http_req *r, void *ctx);
const char *api_query(struct api_call *c, const char *key); /* NULL when absent */
struct span api_header(struct api_call *c, const char *name);
char *api_fmt(struct api_call *c, const char *fmt, ...) PRINTF(2, 3); /* in c->mem; "" when out of memory */
void api_warn(struct api_call *c, const char *text);
/* A commit is under way: the call stays until api_call_unbusy. */
void api_call_busy(struct api_call *c);
void api_call_unbusy(struct api_call *c); /* may free c */

/* Answers. Each ends the request. */
void api_reply_bytes(struct api_call *c, unsigned status, const char *type, struct span body);
void api_reply_take(struct api_call *c, unsigned status, const char *type, struct buf *own_body);
void api_reply_json(struct api_call *c, unsigned status, const struct json *v); /* as it is: Status, discovery, reviews */
void api_reply_obj(struct api_call *c, unsigned status, const struct api_obj *o); /* in the form asked for */
void api_reply_tree(struct api_call *c, unsigned status, struct json *obj); /* an object of c->kr, in the form asked for */
void api_reply_status(struct api_call *c, struct json *status); /* its code is the HTTP status */
void api_text(struct api_call *c, unsigned status, const char *text);
void api_fail(struct api_call *c, unsigned status, const char *reason, const char *fmt, ...) PRINTF(4, 5);
void api_fail_bare(struct api_call *c, const char *message); /* 500 without a reason */
void api_fail_err(struct api_call *c, const struct err *e);
void api_fail_not_found(struct api_call *c, const char *group, const char *resource, const char *name);
void api_fail_exists(struct api_call *c, const char *name);
void api_fail_conflict(struct api_call *c, const char *what, const char *name, const char *fmt, ...) PRINTF(4, 5);
void api_fail_invalid(struct api_call *c, const struct kube_resource *kr, const char *name, struct kube_errs *errs);
void api_fail_options(struct api_call *c, const char *kind, struct kube_errs *errs); /* meta.k8s.io options */
void api_fail_forbidden(struct api_call *c, const char *fmt, ...) PRINTF(2, 3); /* `pods "x" is forbidden: …` */
void api_fail_unserved(struct api_call *c); /* the server could not find the requested resource */
void api_fail_method(struct api_call *c);
void api_fail_415(struct api_call *c);
void api_fail_406(struct api_call *c);
void api_success(struct api_call *c, unsigned status); /* Status Success without details */
void api_unauthorized(struct api_call *c);
/* "pods" or "deployments.apps" */
const char *api_qualified(struct api_call *c, const char *group, const char *resource);

/* Reads the body, then calls next. Answers 413 itself. */
void api_with_body(struct api_call *c, void (*next)(struct api_call *c));
/* The body as a tree in c->doc, kind checked against kr, decoded and (with_defaults) defaulted. NULL: answered. */
struct json *api_decode_body(struct api_call *c, const struct kube_resource *kr, bool with_defaults);
const char *api_json_error(struct api_call *c); /* what is wrong with the body, in Go's words */
bool api_decode(struct api_call *c, const struct kube_resource *kr, struct json *obj, bool with_defaults);
/* Parses the body without knowing its kind. NULL: answered. */
struct json *api_parse_body(struct api_call *c, const char *want_kind);
/* dryRun, fieldManager, fieldValidation from the query; false: answered. */
bool api_write_options(struct api_call *c, const char *options_kind);

/* ---- output ------------------------------------------------------------------------------------------------------- */

/* Appends one object in the form asked for. `doc` (may be NULL) is its parsed form if there is one already. */
NODISCARD int api_encode(const struct api_out *out, const struct kube_resource *stored, const struct kube_resource *want,
                         const struct api_obj *o, const struct json_doc *doc, struct buf *b, struct err *e);
/* The tree of an object in the form asked for (Table, PartialObjectMetadata, or the object), in d. */
struct json *api_shape(const struct api_out *out, const struct kube_resource *want, struct json_doc *d, struct json *obj,
                       bool with_columns);
struct json *api_table_new(const struct api_out *out, const struct kube_resource *want, struct json_doc *d,
                           bool with_columns);
struct json *api_table_row(const struct api_out *out, const struct kube_resource *want, struct json_doc *d,
                           struct json *obj);
struct json *api_partial(struct json_doc *d, const struct json *obj, const char *as_version);
int api_yaml(const struct json *v, struct buf *b); /* keys sorted */
const char *api_media_type(const struct api_out *out, bool watch);

/* ---- operations ------------------------------------------------------------------------------------------------------ */

struct api_list_opts {
    struct kube_selector *labels;
    struct kube_fieldsel *fields;
    int64_t limit;
    const char *cont;
    const char *rv_text;
    int64_t rv;            /* 0 when absent or "0" */
    enum { API_RV_ANY, API_RV_NOT_OLDER, API_RV_EXACT } match;
    const char *match_text;
    bool bookmarks;
    int send_initial; /* -1 absent */
    int64_t timeout_s; /* -1: none */
};
/* Parses and checks; false: answered. Release with api_list_opts_fini. */
bool api_list_options(struct api_call *c, struct api_list_opts *ret, bool watch);
void api_list_opts_fini(struct api_list_opts *o);
bool api_obj_matches(const struct api_list_opts *o, const struct api_res *res, const struct kube_resource *want,
                     const struct api_obj *obj, struct json_doc **doc_io);

void api_warn_deprecated(struct api_call *c);
void api_get(struct api_call *c);
void api_list(struct api_call *c);
void api_watch_start(struct api_call *c);
void api_watch_event(struct api_res *res); /* new events are in the ring */
void api_watch_end_all(struct apiserver *a);

/* An event of the ring whose parsed forms and frames are kept until the loop sleeps. */
struct api_event *api_event_use(struct apiserver *a, struct api_res *res, uint64_t seq);
void api_event_rest(struct api_event *ev); /* forgets them */
/* The frame of an event for all watches that see it as `type` in this form. Borrowed until the loop sleeps. */
NODISCARD int api_frame_event(const struct api_res *res, struct api_event *ev, enum api_event_type type,
                              const struct api_out *out, const struct kube_resource *want, struct net_blob **ret);
/* Appends a frame to b. `doc` as in api_encode. */
NODISCARD int api_frame_obj(const struct api_res *res, const struct api_obj *o, const struct json_doc *doc,
                            enum api_event_type type, const struct api_out *out, const struct kube_resource *want,
                            struct buf *b);
void api_frame_bookmark(const struct api_out *out, const struct kube_resource *want, int64_t rv, bool initial_end,
                        bool with_columns, struct buf *b);
void api_frame_gone(const struct api_out *out, int64_t rv, int64_t oldest, struct buf *b);
void api_create(struct api_call *c);
void api_update(struct api_call *c);
void api_patch(struct api_call *c);
void api_delete(struct api_call *c);
void api_delete_collection(struct api_call *c);

/* Writing. The new state of an object is committed if it still has revision `rev` (0: does not exist). */
typedef void api_committed_cb(struct api_call *c, int rc, struct api_obj *now, const struct err *e);
/* obj NULL: delete. `now` is borrowed (for deletes: the last state), NULL on failure; rc -ERR_CONFLICT: lost a race. */
void api_commit(struct api_call *c, struct api_res *res, const char *ns, const char *name, struct json *obj, int64_t rev,
                api_committed_cb *done);
/* True: another commit of the object is under way and `run` will be called after it. */
bool api_wait_turn(struct api_call *c, struct api_res *res, const char *ns, const char *name,
                   void (*run)(struct api_call *c));
/* Runs c->again when the cache has the change that won. */
void api_retry(struct api_call *c);
void api_retry_wake(struct apiserver *a);
/* The object in the stored form as bytes without resourceVersion. */
NODISCARD int api_store_bytes(struct json_doc *d, const struct api_res *res, const struct kube_resource *form,
                              struct json *obj, struct buf *b, struct err *e);
/* Object from the cache as a tree of the version asked for, in c->doc; NULL when there is none. */
struct json *api_load_tree(struct api_call *c, struct api_res *res, const char *ns, const char *name,
                           const struct kube_resource *form, struct api_obj **ret_obj);
/* Finishes an update of `old` to `obj` (both of kr's form): prepare, validate, managed fields, commit, answer.
 * `is_apply`: managed fields were computed by apply. */
void api_finish_update(struct api_call *c, struct json *obj, struct api_obj *cur, bool is_apply);
api_committed_cb api_on_gone;
bool api_check_update(struct api_call *c, const struct json *obj, const struct api_obj *cur);
void api_finish_create(struct api_call *c, struct json *obj, bool is_apply);
/* Marks or removes one object as DELETE does; then done. */
struct api_delete_opts {
    int64_t grace;          /* -1: default */
    const char *propagation; /* NULL: default */
    const char *uid, *rv;   /* preconditions */
};
/* What deleting cur means: *ret_obj the changed object to store, or NULL to remove it. 0, 1 (nothing to do), or answered (-1). */
int api_delete_plan(struct api_call *c, struct api_res *res, struct api_obj *cur, const struct api_delete_opts *o,
                    struct json **ret_obj);

/* Admission: false when it has answered. */
bool api_admit_create(struct api_call *c, struct json *obj);
/* After validation: what counts (quota) or allocates. */
bool api_admit_created(struct api_call *c, struct json *obj);
bool api_admit_updated(struct api_call *c, struct json *obj, const struct json *old);
bool api_admit_update(struct api_call *c, struct json *obj, const struct json *old);
bool api_admit_delete(struct api_call *c, const struct json *old);
bool api_admit_node(struct api_call *c, const struct json *obj, const struct json *old);
/* Pod Security Standards: false when answered. */
bool api_pss_namespace(struct api_call *c, const struct json *ns);
bool api_pss_admit(struct api_call *c, const struct json *obj, const struct json *old);
bool api_admit_limits(struct api_call *c, struct json *obj);
bool api_admit_quota(struct api_call *c, const struct json *obj, const struct json *old);
/* Service addresses and node ports. */
NODISCARD int api_svc_init(struct apiserver *a, const char *cidr, const char *ports, struct err *e);
void api_svc_event(struct apiserver *a, const struct api_obj *prev, const struct api_obj *now);
void api_svc_release(struct api_call *c);
void api_svc_carry(struct api_call *c, struct json *svc, const struct json *old);
bool api_svc_is_choice(struct span key); /* see api_svc.c */
bool api_svc_admit(struct api_call *c, struct json *svc, const struct json *old);
void api_svc_free(struct apiserver *a);
const char *api_svc_first_ip(const struct apiserver *a);

/* Non-resource paths and discovery. */
void api_disc(struct api_call *c);
void api_virtual(struct api_call *c); /* reviews; c->kr names which */
bool api_is_virtual(const struct kube_resource *kr);
void api_sub(struct api_call *c); /* subresources other than status; verbs as in c->t */
bool api_sub_is_special(const struct kube_resource *kr);
void api_token_create(struct api_call *c);
void api_kubelet(struct api_call *c); /* log, exec, attach, portforward, nodes/proxy */

bool api_kubelet_of(struct api_call *c, const char *node, const char **ret_host, uint16_t *ret_port);
const char *api_container_of(struct api_call *c, const struct json *pod); /* NULL: answered */
void api_stream(struct api_call *c, const struct json *pod); /* exec, attach, portforward */

/* Authentication. 0: c->user is set; otherwise it has answered. */
int api_authenticate(struct api_call *c);
/* Identity of a bearer token; 0, -ERR_UNAUTHENTICATED. Strings in mem. */
NODISCARD int api_token_user(struct apiserver *a, const char *token, const char *const *audiences, size_t n_audiences,
                             struct arena *mem, struct api_user *ret, const char **ret_audience);
void api_tokens_forget(struct apiserver *a);
void api_user_json(const struct api_user *u, struct json_doc *d, struct json *into);

/* Bootstrap. */
void api_boot_start(struct apiserver *a);
/* Brings the endpoints of the `kubernetes` service up to date; a lost race or a failure is left to the next time. */
void api_boot_endpoints(struct apiserver *a);
struct json *api_https_port(struct json_doc *d, struct json *o, uint64_t port); /* the only one in o.ports */

/* The API servers of the store: who they are, and what the endpoints say then. Nothing without an address to advertise. */
NODISCARD int api_peers_init(struct apiserver *a, struct err *e);
void api_peers_event(struct apiserver *a, struct span key, bool gone); /* of any key of the store */
void api_peers_forget(struct apiserver *a); /* but ourselves: all keys are being read again */
void api_peers_start(struct apiserver *a);
void api_peers_stop(struct apiserver *a); /* the others hear of it at once */
void api_peers_free(struct apiserver *a);
void api_peers_endpoints(struct apiserver *a, struct json_doc *d, struct json *o);
void api_peers_slice(struct apiserver *a, struct json_doc *d, struct json *o);

/* ---- the server --------------------------------------------------------------------------------------------------------- */

struct api_rbac;
struct api_svc;
struct api_peers;

struct apiserver {
    struct loop *l;
    struct store *store;
    struct store_watch *watch;
    struct http_server *http;
    struct tls_config *kubelet_tls;
    struct api_res *res;
    size_t n_res;
    struct api_res *services, *events;
    int64_t event_lease; /* 0: none yet */
    uint64_t event_lease_until_ns;
    struct map by_name; /* "group/resource" → struct api_res */
    struct list calls;
    struct list open_watches;
    struct buf watch_text; /* what one watch is told in one wake-up; empty between */
    struct loop_hook rest_hook;
    struct loop_timer bookmark_timer, retry_timer, compact_timer, load_timer;
    int64_t compact_rev; /* history before it may go at the next tick of compact_timer */
    struct list retries;
    struct map tokens; /* SHA-256 of a token → its claims (text) */
    struct map turns; /* objects with a commit under way */
    struct api_rbac *rbac;
    struct api_svc *svc;
    struct api_peers *peers;
    int64_t choice_rev; /* of the key that goes along with chosen service addresses */
    char *cluster_name, *sa_issuer, *advertise_address;
    uint16_t advertise_port;
    bool farm, anonymous, ready, stopping;
    bool closing;     /* the store takes nothing more */
    bool scanning;    /* everything is being read */
    bool reloading;   /* the cache may be older than what was answered: nothing is served from it */
    bool boot_failed; /* some of the first objects were not written */
    bool boot_lost;   /* somebody else wrote them at the same time: what is still missing is looked for again */
    struct span *sa_pems;
    size_t n_sa_pems;
    struct apiserver_signer signer;
    void (*on_ready)(void *ctx);
    void *ready_ctx;
    uint64_t n_requests, n_watch_events, started_ns;
    size_t n_watches, n_boot_pending;
};

extern const char api_bootstrap_json[]; /* generated: one object a line */

#endif
