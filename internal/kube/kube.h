/* kube — Kubernetes kinds as one schema table, and everything that follows from it (no I/O).
 *
 * What:     look up resources and types; decode strictly, default, prepare, validate; patch and apply; select;
 *           print tables; transcode protobuf; describe by OpenAPI. All over json trees.
 * Owns:     nothing but what a `_new`/`_parse` returns; tables are constants and live for ever. Results made in a
 *           json_doc die with it. A `struct kube_errs` owns its texts until kube_errs_fini.
 * Limits:   LIM_KUBE_OBJECT, LIM_KUBE_ERRS; depth by LIM_JSON_DEPTH.
 * Errors:   INVALID (400), UNPROCESSABLE (422, causes in kube_errs), CONFLICT, LIMIT, UNSUPPORTED, NOT_FOUND.
 * Threads:  any, no shared state.       Time: passed in as RFC 3339 text or wall seconds.
 * Spec:     Kubernetes 1.36 API; RFC 6901, 6902, 7386; structured-merge-diff v6.
 *
 * A request goes through it in this order:
 *   create: json_parse(JSON_DUPS_OK) → kube_decode → kube_default → kube_prepare_create → kube_validate_create
 *           → kube_managed_update → store
 *   update: … → kube_prepare_update(old) → kube_validate_update(old) → kube_managed_update(old) → store
 *   patch:  copy of the stored object → kube_patch_x (or kube_apply) → then as update
 */
#ifndef KF_KUBE_H
#define KF_KUBE_H

#include "internal/json/json.h"

#include <stdarg.h>

enum { LIM_KUBE_OBJECT = 3 << 20, LIM_KUBE_ERRS = 256, LIM_KUBE_NAME = 253 };

struct kube_type; /* the fields of one object type of one version; constant */
struct arena;

/* ---- errors with causes --------------------------------------------------------------------------------- */

struct kube_cause {
    const char *reason;  /* "FieldValueRequired"; NULL when there is none */
    const char *message; /* "Required value: name or generateName is required" */
    const char *field;   /* "metadata.name"; NULL when there is none */
};

struct kube_errs {
    struct kube_cause *list;
    size_t n;
    bool more;  /* causes past LIM_KUBE_ERRS were dropped */
    char *text; /* for decoding and patch errors: the one message, NULL otherwise */
    struct arena *mem;
};

#define KUBE_ERRS_INIT \
    { NULL, 0, false, NULL, NULL }

void kube_errs_fini(struct kube_errs *e);
/* `field` and message are copied. kube_err_add(errs, KUBE_REQUIRED, "spec.x", "may not be empty") gives
 * message "Required value: may not be empty". For INVALID, NOT_SUPPORTED and DUPLICATE `bad` is the value. */
enum kube_cause_kind {
    KUBE_REQUIRED,
    KUBE_INVALID,
    KUBE_NOT_SUPPORTED,
    KUBE_DUPLICATE,
    KUBE_FORBIDDEN,
    KUBE_NOT_FOUND,
    KUBE_TOO_LONG,
    KUBE_TOO_MANY,
    KUBE_INTERNAL,
    KUBE_TYPE_INVALID,
};
void kube_err_add(struct kube_errs *e, enum kube_cause_kind k, const char *field,
                  const struct json *bad, const char *fmt, ...) PRINTF(5, 6);
void kube_err_add_str(struct kube_errs *e, enum kube_cause_kind k, const char *field,
                      const char *bad, const char *fmt, ...) PRINTF(5, 6);

/* Status objects, made in d. `details_*` may be NULL. `kind` in details is a kind for Invalid and a resource
 * name ("pods") for NotFound, AlreadyExists, Conflict, as upstream's. */
struct json *kube_status(struct json_doc *d, unsigned http, const char *reason,
                         const char *message);
struct json *kube_status_details(struct json_doc *d, struct json *status, const char *group,
                                 const char *kind, const char *name, const char *uid);
/* 422 `Pod "x" is invalid: …` with causes. */
struct json *kube_status_invalid(struct json_doc *d, const char *group, const char *kind,
                                 const char *name, const struct kube_errs *errs);
/* 409 of server-side apply: `Apply failed with 1 conflict: conflict with "a" using v1: .data.k`. */
struct json *kube_status_apply_conflict(struct json_doc *d, const struct kube_errs *errs);

/* ---- tables --------------------------------------------------------------------------------------------- */

enum kube_verb {
    KUBE_V_CREATE = 1u << 0,
    KUBE_V_DELETE = 1u << 1,
    KUBE_V_DELETECOLLECTION = 1u << 2,
    KUBE_V_GET = 1u << 3,
    KUBE_V_LIST = 1u << 4,
    KUBE_V_PATCH = 1u << 5,
    KUBE_V_UPDATE = 1u << 6,
    KUBE_V_WATCH = 1u << 7,
};
enum kube_set {
    KUBE_SET_UPSTREAM = 1u << 0,
    KUBE_SET_FARM = 1u << 1
}; /* which clusters serve it */

struct kube_resource {
    const char *group;   /* "" for core */
    const char *version; /* "v1" */
    const char *name;    /* "pods" */
    const char *sub;     /* "" or "status", "scale", "log", … */
    const char *kind;    /* kind of the bodies, "Pod" */
    const char *
        body_group; /* group and version of `kind` where they differ (autoscaling/v1 Scale), else those above */
    const char *body_version;
    const char *singular;         /* "pod"; "" for subresources */
    const char *short_names;      /* "po", comma-separated, or "" */
    const char *categories;       /* "all", or "" */
    const struct kube_type *type; /* of `kind`; NULL for connect-only subresources without a body */
    const struct kube_type *list_type; /* of `kind`List, or NULL */
    uint8_t verbs;                     /* enum kube_verb */
    uint8_t sets;                      /* enum kube_set */
    bool namespaced;
    bool stored; /* this version's form is the one kept in the store (see kube_stored) */
    uint16_t column, n_columns; /* of its table; none: Name and Age */
};

size_t kube_n_resources(void);
/* Ordered by group as discovery lists them (core first), version by priority, then name, then subresource. */
const struct kube_resource *kube_resource_at(size_t i);
/* `sub` "" or NULL for the resource itself. NULL when there is none. */
const struct kube_resource *kube_resource_find(const char *group, const char *version,
                                               const char *name, const char *sub);
const struct kube_resource *kube_resource_by_kind(const char *group, const char *version,
                                                  const char *kind);
/* Resource whose form the store keeps for r: r itself, or the same objects in another version or group
 * (events.k8s.io/v1 events → v1 events, autoscaling/v1 horizontalpodautoscalers → autoscaling/v2). */
const struct kube_resource *kube_stored(const struct kube_resource *r);
/* Changes obj from the form of `from` to that of `to`; both must share kube_stored. */
NODISCARD int kube_convert(struct json_doc *d, struct json *obj, const struct kube_resource *from,
                           const struct kube_resource *to, struct err *e);
bool kube_has_sub(const struct kube_resource *r, const char *sub);
/* "apps/v1", or "v1" for core; a constant. */
const char *kube_api_version(const struct kube_resource *r);

struct kube_group {
    const char *name;
    const char *versions[4]; /* by priority; the first is preferred; NULL after the last */
    uint8_t sets;
};
size_t kube_n_groups(void);
const struct kube_group *kube_group_at(size_t i);

/* "group/version" or "version" as in apiVersion. */
const struct kube_type *kube_type_of(const char *api_version, const char *kind);
/* Splits "apps/v1" into group and version; group "" for core. -ERR_INVALID for more than one slash. */
NODISCARD int kube_gv_split(const char *api_version, struct span *ret_group,
                            struct span *ret_version);

/* ---- decode, default, prepare, validate ------------------------------------------------------------------- */

enum kube_field_validation { KUBE_FV_IGNORE, KUBE_FV_WARN, KUBE_FV_STRICT };

/* Checks v (parsed with JSON_DUPS_OK, or from kube_pb_decode) against t and makes it canonical in place: unknown, duplicate (last wins),
 * null and empty-where-omitted fields go; quantities, times and base64 are checked and canonicalised.
 * STRICT: unknown or duplicate fields fail with `strict decoding error: unknown field "spec.foo"` in errs->text.
 * WARN: they are listed as warnings (`unknown field "spec.foo"`), one cause message each.
 * Wrong types always fail; errs->text is what follows `<Kind> in version "<v>" cannot be handled as a <Kind>: `.
 * t NULL: only metadata is checked, the rest is kept. */
NODISCARD int kube_decode(struct json_doc *d, struct json *v, const struct kube_type *t,
                          enum kube_field_validation fv, struct kube_errs *errs, struct err *e);
/* Fills in defaults of the version of r (as upstream's SetDefaults_*). */
void kube_default(struct json_doc *d, struct json *obj, const struct kube_resource *r);
/* The registry's part before validation. Create: status dropped or initialised, generation 1, fields that a writer
 * may not set are reset. Update: what this (sub)resource may not change is taken from old, generation is raised
 * when the spec differs. Neither touches name generation, uid, creationTimestamp, resourceVersion: the server's. */
void kube_prepare_create(struct json_doc *d, struct json *obj, const struct kube_resource *r);
void kube_prepare_update(struct json_doc *d, struct json *obj, const struct json *old,
                         const struct kube_resource *r);
/* 0, or -ERR_UNPROCESSABLE with causes. metadata.name is checked after generateName has been expanded. */
NODISCARD int kube_validate_create(const struct json *obj, const struct kube_resource *r,
                                   struct kube_errs *errs);
NODISCARD int kube_validate_update(const struct json *obj, const struct json *old,
                                   const struct kube_resource *r, struct kube_errs *errs);
/* Non-fatal remarks for Warning headers (deprecated fields and the like), one cause message each. */
void kube_warnings(const struct json *obj, const struct kube_resource *r, struct kube_errs *ret);

/* Name rules. A DNS name is a lower-case RFC 1123 subdomain. */
bool kube_is_dns_name(struct span s);
bool kube_is_qualified_name(struct span s);
bool kube_is_label_value(struct span s);

/* ---- quantities, int-or-string ----------------------------------------------------------------------------- */

/* Canonical text of a quantity ("1000m" → "1"); -ERR_INVALID. */
NODISCARD int kube_quantity_canon(struct span s, struct buf *b);
/* Value × 1000, rounded up, saturating. */
NODISCARD int kube_quantity_milli(struct span s, int64_t *ret);
NODISCARD int kube_quantity_value(struct span s, int64_t *ret); /* rounded up to units */
NODISCARD int kube_quantity_cmp(struct span a, struct span b, int *ret);
/* Text of bytes (BinarySI, "128974848" → "123Mi") and of milli units ("1500m"). */
int kube_quantity_write_bytes(struct buf *b, int64_t v);
int kube_quantity_write_milli(struct buf *b, int64_t milli);
/* int-or-percent of total ("25%"), rounded up or down. -ERR_INVALID. */
NODISCARD int kube_intstr_scaled(const struct json *v, int64_t total, bool round_up, int64_t *ret);

/* ---- patch and apply ---------------------------------------------------------------------------------------- */

/* All change `target` (a tree in d, typically a json_copy of the stored object) and give the new root; values of
 * `patch` may be in another document. On failure errs->text is upstream's message, and the code says the status. */
NODISCARD int kube_patch_json(struct json_doc *d, struct json *target, const struct json *patch,
                              struct json **ret, struct kube_errs *errs);
NODISCARD int kube_patch_merge(struct json_doc *d, struct json *target, const struct json *patch,
                               struct json **ret, struct kube_errs *errs);
NODISCARD int kube_patch_strategic(struct json_doc *d, const struct kube_type *t,
                                   struct json *target, const struct json *patch, struct json **ret,
                                   struct kube_errs *errs);

struct kube_apply_opts {
    const char *manager; /* fieldManager; required for apply */
    const char *time;    /* RFC 3339 seconds for managedFields */
    bool force;
};
/* Server-side apply of `applied` (as parsed: not decoded, not defaulted) onto `live` (NULL: create). The result in
 * *ret carries the new managedFields and goes on through kube_decode and kube_default like an update. -ERR_CONFLICT with causes (kube_status_apply_conflict), or -ERR_INVALID with text. */
NODISCARD int kube_apply(struct json_doc *d, const struct kube_resource *r, const struct json *live,
                         const struct json *applied, const struct kube_apply_opts *o,
                         struct json **ret, struct kube_errs *errs);
/* Finishes managedFields of obj after any write: compares with old (NULL: create) and moves ownership of changed
 * fields to (o->manager, Update, subresource). After kube_apply pass is_apply (only defaults are then dropped). A
 * request with `managedFields: [{}]` empties them. Same content except times keeps the old times. */
void kube_managed_update(struct json_doc *d, const struct kube_resource *r, const struct json *old,
                         struct json *obj, const struct kube_apply_opts *o, bool is_apply);
/* Default manager name: user agent up to the first '/'. */
struct span kube_manager_of_agent(struct span user_agent);

/* ---- selectors ----------------------------------------------------------------------------------------------- */

struct kube_selector;
/* Label selector text ("a=b,c in (d,e),!f"); empty selects all. errs->text in upstream's words. */
NODISCARD int kube_selector_parse(struct span s, struct kube_selector **ret,
                                  struct kube_errs *errs);
/* From a LabelSelector object (NULL: selects nothing; {}: everything). */
NODISCARD int kube_selector_of(const struct json *label_selector, struct kube_selector **ret,
                               struct kube_errs *errs);
/* From a plain map (Service.spec.selector). NULL or {}: nothing. */
struct kube_selector *kube_selector_of_map(const struct json *map);
bool kube_selector_match(const struct kube_selector *s, const struct json *labels);
bool kube_selector_is_all(const struct kube_selector *s);
void kube_selector_free(struct kube_selector *s);
void kube_selectorp_fini(struct kube_selector **s);

struct kube_fieldsel;
/* Field selector ("metadata.name=x,status.phase!=Running"); unsupported fields: `field label not supported: x`. */
NODISCARD int kube_fieldsel_parse(struct span s, const struct kube_resource *r,
                                  struct kube_fieldsel **ret, struct kube_errs *errs);
bool kube_fieldsel_match(const struct kube_fieldsel *s, const struct json *obj);
bool kube_fieldsel_is_all(const struct kube_fieldsel *s);
/* Value that metadata.name must equal, or NULL: for direct reads. */
const char *kube_fieldsel_name(const struct kube_fieldsel *s);
void kube_fieldsel_free(struct kube_fieldsel *s);

/* ---- meta.k8s.io/v1 Table --------------------------------------------------------------------------------------- */

/* columnDefinitions of r (array, made in d). */
struct json *kube_table_columns(struct json_doc *d, const struct kube_resource *r);
/* cells of one object. `now_s`: wall seconds, for ages. */
struct json *kube_table_cells(struct json_doc *d, const struct kube_resource *r,
                              const struct json *obj, uint64_t now_s);
/* kubectl's short duration: 5s, 3m10s, 4h, 2d. */

/* ---- protobuf ---------------------------------------------------------------------------------------------------- */

/* Envelope ("k8s\0" + runtime.Unknown) of obj, which carries apiVersion and kind. -ERR_UNSUPPORTED for types
 * without protobuf form (kfarm's own kinds). */
NODISCARD int kube_pb_encode(const struct json *obj, struct buf *b, struct err *e);
/* The reverse; the tree gets apiVersion and kind first. `*ret` is made in d. */
NODISCARD int kube_pb_decode(struct span s, struct json_doc *d, struct json **ret, struct err *e);
/* One frame of a protobuf watch: 4-byte length + WatchEvent around an already encoded envelope. */
NODISCARD int kube_pb_watch_frame(const char *event_type, struct span envelope, struct buf *b);
bool kube_pb_has(const struct kube_type *t);

/* ---- OpenAPI --------------------------------------------------------------------------------------------------------- */

/* `sets`: which kinds (enum kube_set). Generated on demand; results are large (MiB) and belong on disk or in a
 * cache only while used. */
NODISCARD int kube_openapi_v2(unsigned sets, struct buf *b);
NODISCARD int kube_openapi_v2_pb(unsigned sets, struct buf *b);    /* gnostic form, old kubectl */
NODISCARD int kube_openapi_v3_index(unsigned sets, struct buf *b); /* body of /openapi/v3 */
/* `path` as in the index: "api/v1", "apis/apps/v1". -ERR_NOT_FOUND. */
NODISCARD int kube_openapi_v3(unsigned sets, const char *path, struct buf *b);

/* ---- metadata helpers (objects may be NULL) ----------------------------------------------------------------------------- */

const char *kube_name(const struct json *obj);      /* "" when missing */
const char *kube_namespace(const struct json *obj); /* "" when missing */
const char *kube_uid(const struct json *obj);
const char *kube_rv(const struct json *obj);
struct json *kube_labels(const struct json *obj);
const char *kube_label(const struct json *obj, const char *key);
const char *kube_annotation(const struct json *obj, const char *key);
void kube_annotate(struct json_doc *d, struct json *obj, const char *key,
                   const char *value); /* NULL removes */
void kube_label_set(struct json_doc *d, struct json *obj, const char *key, const char *value);
bool kube_is_deleting(const struct json *obj);
bool kube_has_finalizer(const struct json *obj, const char *name);
void kube_finalizer_add(struct json_doc *d, struct json *obj, const char *name);
bool kube_finalizer_remove(struct json *obj, const char *name);
/* ownerReference with controller: true, or NULL. */
struct json *kube_controller_of(const struct json *obj);
bool kube_is_owned_by(const struct json *obj, const char *uid);
void kube_owner_add(struct json_doc *d, struct json *obj, const struct json *owner,
                    bool controller);
struct json *kube_condition(const struct json *obj, const char *type); /* of status.conditions */
bool kube_condition_is(const struct json *obj, const char *type, const char *status);
/* Sets status.conditions[type]; lastTransitionTime changes only with status. True when anything changed. */
bool kube_condition_set(struct json_doc *d, struct json *obj, const char *type, const char *status,
                        const char *reason, const char *message, const char *time);
/* A new object with apiVersion, kind, metadata{name, namespace}; root of d when d has none. */
struct json *kube_object_new(struct json_doc *d, const char *api_version, const char *kind,
                             const char *ns, const char *name);

#endif
