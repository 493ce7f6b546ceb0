#include "internal/apiserver/api_int.h"

/* Create and update, and the commit that both end in. */

/* ---- storing ---- */

/* Members in upstream's order. The revision is not among them: it is put in front when the object is read. */
static struct json *canonical_meta(struct json_doc *d, const struct json *meta) {
    static const char *const order[] = {
        "name",         "generateName",      "namespace",         "uid",
        "generation",   "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
        "labels",       "annotations",       "ownerReferences",   "finalizers",
        "managedFields"};
    struct json *out = json_new_obj(d);
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        const struct json *v = json_get(meta, order[i]);
        if (v != NULL) {
            json_set(d, out, order[i], json_copy(d, v));
        }
    }
    JSON_EACH_KV(it, k, v, meta) {
        if (json_get(out, k) == NULL && strcmp(k, "resourceVersion") != 0 &&
            strcmp(k, "selfLink") != 0) {
            json_set(d, out, k, json_copy(d, v));
        }
    }
    return out;
}

int api_store_bytes(struct json_doc *d, const struct api_res *res, const struct kube_resource *form,
                    struct json *obj, struct buf *b, struct err *e) {
    if (form != res->kr) {
        obj = json_copy(d, obj);
        int rc = kube_convert(d, obj, form, res->kr, e);
        if (rc < 0) {
            return rc;
        }
    }
    /* kind, apiVersion, metadata come first: lists and revisions rely on it (struct api_res.head_n). */
    struct json *out = json_new_obj(d);
    json_set_str(d, out, "kind", res->kr->kind);
    json_set_str(d, out, "apiVersion", kube_api_version(res->kr));
    json_set(d, out, "metadata", canonical_meta(d, json_get(obj, "metadata")));
    JSON_EACH_KV(it, k, v, obj) {
        if (strcmp(k, "kind") != 0 && strcmp(k, "apiVersion") != 0 && strcmp(k, "metadata") != 0) {
            json_set(d, out, k, json_copy(d, v));
        }
    }
    int rc = json_write(out, 0, b);
    return rc < 0 ? err_set(e, ERR_LIMIT, "the object is too large") : 0;
}

struct commit {
    struct api_call *c;
    struct api_res *res;
    char *key; /* in the cache */
    size_t ns_n;
    struct api_obj *before;
    struct span value;
    char *turn_key;
    struct store_txn *txn; /* waits for the lease of events */
    api_committed_cb *done;
};

/* Events are forgotten after an hour. They share a lease for a few minutes, as upstream's do. */
enum { EVENT_TTL_S = 3600, EVENT_LEASE_SHARED_S = 300 };
/* Longest wait of a lost race for the events of its winner. */
enum { RETRY_MS = 20 };

/* ---- one change of an object at a time ---- */

/* Commits of one key follow one another: who finds one under way waits for it, in order of arrival, instead of losing a
 * race that it could not win. */
struct turn {
    struct list waiters; /* api_call.turn_link */
    bool busy;
};

/* Services of a shared store all take turns: each changes the count of allocations. */
static char *turn_key(const struct apiserver *a, const struct api_res *res, const char *ns,
                      const char *name) {
    return res == a->services && store_is_shared(a->store)
               ? str_dup(res->prefix)
               : str_fmt("%s%s/%s", res->prefix, ns, name);
}

bool api_wait_turn(struct api_call *c, struct api_res *res, const char *ns, const char *name,
                   void (*run)(struct api_call *c)) {
    AUTO_FREE char *key = turn_key(c->a, res, ns, name);
    struct turn *t = map_get_str(&c->a->turns, key);
    if (t == NULL || !t->busy) {
        return false;
    }
    c->turn = run;
    api_call_busy(c);
    list_add_tail(&t->waiters, &c->turn_link);
    return true;
}

static void turn_begin(struct commit *k) {
    struct turn *t = map_get_str(&k->c->a->turns, k->turn_key);
    if (t == NULL) {
        t = new_zero(struct turn);
        list_init(&t->waiters);
        map_put_str(&k->c->a->turns, k->turn_key, t);
    }
    t->busy = true;
}

static void turn_end(struct apiserver *a, const char *key) {
    struct turn *t = map_get_str(&a->turns, key);
    if (t == NULL) {
        return; /* a second commit of the same request ended it */
    }
    t->busy = false;
    while (!t->busy && !list_empty(&t->waiters)) {
        struct api_call *c = CONTAINER_OF(t->waiters.next, struct api_call, turn_link);
        list_del(&c->turn_link);
        if (!a->closing) {
            c->turn(c);
        }
        api_call_unbusy(c);
    }
    if (!t->busy) {
        map_del_str(&a->turns, key);
        free(t);
    }
}

/* A race lost all the same (to a change of a quota or budget that went along) is run again a little later. */
static void on_retry(struct loop_timer *t) {
    struct apiserver *a = CONTAINER_OF(t, struct apiserver, retry_timer);
    struct list now;
    list_init(&now);
    for (LIST_EACH(pos, nxt, &a->retries)) {
        list_del(pos);
        list_add_tail(&now, pos);
    }
    for (LIST_EACH(pos, nxt, &now)) {
        struct api_call *c = CONTAINER_OF(pos, struct api_call, retry_link);
        list_del(pos);
        c->again(c);
        api_call_unbusy(c);
    }
}

static void on_retry_synced(void *ctx, int rc, const struct err *e) {
    struct api_call *c = ctx;
    if (c->a->closing) {
        /* its connection is closed with it */
    } else if (rc < 0) {
        api_fail_err(c, e);
    } else {
        c->again(c);
    }
    api_call_unbusy(c);
}

void api_retry(struct api_call *c) {
    struct apiserver *a = c->a;
    if (a->closing) {
        return;
    }
    api_call_busy(c);
    if (store_is_shared(a->store)) {
        store_sync(a->store, on_retry_synced, c);
        return;
    }
    list_add_tail(&a->retries, &c->retry_link);
    if (!loop_timer_active(&a->retry_timer)) {
        loop_timer_start(a->l, &a->retry_timer, RETRY_MS * NS_PER_MS, on_retry, "lost races");
    }
}

/* New events are in the cache: who lost to them goes on at once. */
void api_retry_wake(struct apiserver *a) {
    if (!list_empty(&a->retries)) {
        loop_timer_start(a->l, &a->retry_timer, 0, on_retry, "lost races");
    }
}

static void on_committed(void *ctx, struct store_txn *t, int rc, const struct err *e) {
    struct commit *k = ctx;
    struct api_call *c = k->c;
    struct api_obj *now = NULL;
    struct err why = ERR_INIT;
    if (rc >= 0 && !t->body.succeeded) {
        rc = err_set(&why, ERR_CONFLICT, "the object has been modified");
        e = &why;
    }
    if (rc == -ERR_NOT_FOUND && k->res == c->a->events) {
        c->a->event_lease =
            0; /* it went with an etcd that was restored: the next event takes a new one */
    }
    if (rc >= 0 && k->value.p != NULL) {
        struct api_obj *cached = api_cache_get(k->res, span_str(k->key));
        if (cached != NULL && cached->rv == t->rev) {
            now = api_obj_ref(cached);
        } else {
            /* A later change was delivered in the same batch: the answer still tells what this one wrote. */
            now = api_obj_new(span_str(k->key), k->ns_n, k->value, t->rev,
                              k->before != NULL ? k->before->create_rev : t->rev);
        }
    } else if (rc >= 0 && k->before != NULL) {
        now = api_obj_at_rv(k->before, t->rev);
    }
    api_svc_release(c);
    k->done(c, rc, now, e);
    api_obj_unref(now);
    api_obj_unref(k->before);
    struct apiserver *a = c->a;
    AUTO_FREE char *turn_key = TAKE(k->turn_key);
    free(k->key);
    free(k);
    api_call_unbusy(c);
    turn_end(a, turn_key);
}

static void event_send(struct apiserver *a, struct store_txn *t, struct commit *k) {
    t->body.then.v[0].u.put.lease = a->event_lease;
    store_txn(a->store, t, on_committed, k);
}

static void on_event_lease(void *ctx, int rc, int64_t id, int64_t ttl, const struct err *e) {
    struct commit *k = ctx;
    struct apiserver *a = k->c->a;
    (void)ttl;
    if (rc < 0) {
        LOG_WARN("apiserver", "no lease for events, keeping this one for ever", F_ERR(e));
        a->event_lease = 0;
    } else {
        a->event_lease = id;
        a->event_lease_until_ns = clock_ns() + EVENT_LEASE_SHARED_S * NS_PER_S;
    }
    event_send(a, k->txn, k);
}

static void event_commit(struct apiserver *a, struct store_txn *t, struct commit *k) {
    if (a->event_lease != 0 && clock_ns() < a->event_lease_until_ns) {
        event_send(a, t, k);
        return;
    }
    k->txn = t;
    store_lease_grant(a->store, 0, EVENT_TTL_S + EVENT_LEASE_SHARED_S, on_event_lease, k);
}

void api_commit(struct api_call *c, struct api_res *res, const char *ns, const char *name,
                struct json *obj, int64_t rev, api_committed_cb *done) {
    struct commit *k = new_zero(struct commit);
    struct store_txn *t = store_txn_new(0);
    struct err e = ERR_INIT;
    k->c = c;
    k->res = res;
    k->done = done;
    k->key = ns[0] != '\0' ? str_fmt("%s/%s", ns, name) : str_dup(name);
    k->ns_n = strlen(ns);
    k->turn_key = turn_key(c->a, res, ns, name);
    turn_begin(k);
    struct api_obj *before = api_cache_get(res, span_str(k->key));
    k->before = before != NULL ? api_obj_ref(before) : NULL;
    AUTO_FREE char *full = str_fmt("%s%s", res->prefix, k->key);
    store_txn_cmp(t, &t->body, STORE_T_MOD, STORE_EQUAL, span_str(full), rev);
    if (obj != NULL) {
        AUTO(buf) struct buf b = BUF_INIT(LIM_KUBE_OBJECT * 2);
        int rc = api_store_bytes(c->doc, res, c->form != NULL ? c->form : res->kr, obj, &b, &e);
        if (rc < 0) {
            t->failed = true;
        } else {
            k->value =
                store_txn_put(t, &t->body.then, span_str(full), buf_view(&b), 0)->u.put.value;
        }
    } else {
        store_txn_delete(t, &t->body.then, span_str(full), SPAN_EMPTY);
    }
    for (size_t i = 0; i < c->n_ops; i++) {
        const struct api_extra_op *op = &c->ops[i];
        if (op->rev >= 0) {
            store_txn_cmp(t, &t->body, STORE_T_MOD, STORE_EQUAL, op->key, op->rev);
        }
        if (op->value.p != NULL) {
            store_txn_put(t, &t->body.then, op->key, op->value, 0);
        } else {
            store_txn_delete(t, &t->body.then, op->key, SPAN_EMPTY);
        }
    }
    c->n_ops = 0;
    api_call_busy(c);
    if (res == c->a->events && obj != NULL && !t->failed) {
        event_commit(c->a, t, k);
    } else {
        store_txn(c->a->store, t, on_committed, k);
    }
}

/* ---- shared steps ---- */

struct json *api_load_tree(struct api_call *c, struct api_res *res, const char *ns,
                           const char *name, const struct kube_resource *form,
                           struct api_obj **ret_obj) {
    struct api_obj *o = api_cache_find(res, ns, name);
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    if (o == NULL || api_obj_parse(o, &d) < 0) {
        return NULL;
    }
    struct json *v = json_copy(c->doc, json_root(d));
    if (form != res->kr && kube_convert(c->doc, v, res->kr, form, &e) < 0) {
        return NULL;
    }
    if (ret_obj != NULL) {
        *ret_obj = o;
    }
    return v;
}

static const char *scope_ns(const struct api_call *c) {
    return c->main->namespaced ? c->t.ns : "";
}

static void manage(struct api_call *c, struct json *obj, const struct json *old, bool is_apply) {
    if (old != NULL && !is_apply && json_len(json_at(old, "metadata", "managedFields")) == 0) {
        /* Objects that nobody manages stay so until somebody applies them. */
        json_del(json_get(obj, "metadata"), "managedFields");
        return;
    }
    const struct kube_apply_opts o = {
        .manager = c->field_manager, .time = c->time, .force = c->force};
    kube_managed_update(c->doc, c->kr, old, obj, &o, is_apply);
}

static void warnings_of(struct api_call *c, const struct json *obj) {
    struct kube_errs w = KUBE_ERRS_INIT;
    kube_warnings(obj, c->kr, &w);
    for (size_t i = 0; i < w.n; i++) {
        api_warn(c, w.list[i].message);
    }
    kube_errs_fini(&w);
}

/* ---- create ---- */

static void on_created(struct api_call *c, int rc, struct api_obj *now, const struct err *e) {
    if (rc == -ERR_CONFLICT) {
        if (c->generated && c->tries++ < 8) {
            api_retry(c);
            return;
        }
        bool there = api_cache_find(c->res, scope_ns(c), c->obj_name) != NULL;
        if (c->again_on_conflict && !there && c->tries++ < LIM_API_RETRIES) {
            api_retry(c);
            return;
        }
        api_fail_exists(c, c->obj_name);
    } else if (rc < 0) {
        api_fail_err(c, e);
    } else {
        api_reply_obj(c, 201, now);
    }
}

/* Fields that only the server fills in. */
static bool create_meta(struct api_call *c, struct json *obj) {
    struct json *meta = json_need_obj(c->doc, obj, "metadata");
    if (kube_rv(obj)[0] != '\0') {
        api_fail_bare(c, "resourceVersion should not be set on objects to be created");
        return false;
    }
    if (c->main->namespaced) {
        const char *ns = kube_namespace(obj);
        if (ns[0] != '\0' && strcmp(ns, c->t.ns) != 0) {
            api_fail(c, 400, "BadRequest",
                     "the namespace of the provided object does not match the namespace sent on "
                     "the request");
            return false;
        }
        json_set_str(c->doc, meta, "namespace", c->t.ns);
    }
    const char *gen = json_str_at(obj, "metadata", "generateName");
    if (kube_name(obj)[0] == '\0' && gen != NULL && gen[0] != '\0') {
        char suffix[6];
        rand_suffix(suffix, 5);
        size_t keep = strlen(gen) > 58 ? 58 : strlen(gen);
        json_set(c->doc, meta, "name", json_new_fmt(c->doc, "%.*s%s", (int)keep, gen, suffix));
        c->generated = true;
    }
    char uid[37];
    rand_uuid(uid);
    json_set_str(c->doc, meta, "uid", uid);
    json_set_str(c->doc, meta, "creationTimestamp", c->time);
    json_del(meta, "deletionTimestamp");
    json_del(meta, "deletionGracePeriodSeconds");
    json_del(meta, "selfLink");
    c->obj_name = kube_name(obj);
    return true;
}

void api_finish_create(struct api_call *c, struct json *obj, bool is_apply) {
    if (!create_meta(c, obj)) {
        return;
    }
    /* Managed fields are those of the request: what admission adds belongs to nobody. */
    struct json *asked = json_copy(c->doc, obj);
    manage(c, asked, NULL, is_apply);
    if (!api_admit_create(c, obj)) {
        return;
    }
    kube_prepare_create(c->doc, obj, c->kr);
    const struct json *fields = json_at(asked, "metadata", "managedFields");
    json_del(json_get(obj, "metadata"), "managedFields");
    if (fields != NULL) {
        json_set(c->doc, json_get(obj, "metadata"), "managedFields", json_copy(c->doc, fields));
    }
    struct kube_errs errs = KUBE_ERRS_INIT;
    if (kube_validate_create(obj, c->kr, &errs) < 0) {
        api_fail_invalid(c, c->kr, kube_name(obj), &errs);
        return;
    }
    kube_errs_fini(&errs);
    if (!api_admit_created(c, obj)) {
        return;
    }
    warnings_of(c, obj);
    const char *name = kube_name(obj);
    if (c->dry_run) {
        if (api_cache_find(c->res, scope_ns(c), name) != NULL) {
            api_fail_exists(c, name);
            return;
        }
        json_del(json_get(obj, "metadata"), "resourceVersion");
        api_reply_tree(c, 201, obj);
        return;
    }
    c->form = c->main;
    api_commit(c, c->res, scope_ns(c), name, obj, 0, on_created);
}

static void create_run(struct api_call *c) {
    if (c->res == c->a->services && store_is_shared(c->a->store) &&
        api_wait_turn(c, c->res, "", "", create_run)) {
        return;
    }
    struct json *obj = api_decode_body(c, c->kr, true);
    if (obj != NULL) {
        c->generated = false;
        api_finish_create(c, obj, false);
    }
}

void api_create(struct api_call *c) {
    c->again = create_run;
    if (api_write_options(c, "CreateOptions")) {
        create_run(c);
    }
}

/* ---- update ---- */

static void reply_written(struct api_call *c, unsigned status, const struct api_obj *now) {
    if (c->reply != NULL) {
        c->reply(c, status, now);
    } else {
        api_reply_obj(c, status, now);
    }
}

static void on_updated(struct api_call *c, int rc, struct api_obj *now, const struct err *e) {
    if (rc == -ERR_CONFLICT && c->again != NULL && c->tries++ < LIM_API_RETRIES) {
        api_retry(c);
    } else if (rc == -ERR_CONFLICT) {
        api_fail_conflict(c, c->t.resource, c->t.name,
                          "the object has been modified; please apply your changes to the latest "
                          "version and try again");
    } else if (rc < 0) {
        api_fail_err(c, e);
    } else {
        reply_written(c, c->created ? 201 : 200, now);
    }
}

/* Upstream keeps objects without finalizers that are being deleted only as long as their grace period runs. */
static bool gone_by_update(const struct api_call *c, const struct json *obj,
                           const struct json *old) {
    if (!kube_is_deleting(obj) || json_len(json_at(obj, "metadata", "finalizers")) > 0) {
        return false;
    }
    if (strcmp(c->main->name, "namespaces") == 0 && c->main->group[0] == '\0') {
        return json_len(json_at(obj, "spec", "finalizers")) == 0;
    }
    return json_i64_at(old, 0, "metadata", "deletionGracePeriodSeconds") == 0;
}

static void carry_meta(struct api_call *c, struct json *obj, const struct json *old) {
    static const char *const keep[] = {"uid", "creationTimestamp", "deletionTimestamp",
                                       "deletionGracePeriodSeconds"};
    struct json *meta = json_need_obj(c->doc, obj, "metadata");
    const struct json *was = json_get(old, "metadata");
    for (size_t i = 0; i < ARRAY_LEN(keep); i++) {
        const struct json *v = json_get(was, keep[i]);
        struct json *cur = json_get(meta, keep[i]);
        if (v != NULL && (json_is_null(cur) || i == 2 || i == 3)) {
            json_set(c->doc, meta, keep[i], json_copy(c->doc, v));
        } else if (v == NULL && i >= 2) {
            json_del(meta, keep[i]);
        }
    }
    if (c->main->namespaced) {
        json_set_str(c->doc, meta, "namespace", c->t.ns);
    }
    json_del(meta, "selfLink");
}

/* Same content apart from resourceVersion: upstream writes nothing then. */
static bool is_same(struct api_call *c, const struct json *obj, const struct json *old) {
    struct json *a = json_copy(c->doc, obj);
    struct json *b = json_copy(c->doc, old);
    json_del(json_get(a, "metadata"), "resourceVersion");
    json_del(json_get(b, "metadata"), "resourceVersion");
    return json_eq(a, b);
}

void api_finish_update(struct api_call *c, struct json *obj, struct api_obj *cur, bool is_apply) {
    const struct json *old = c->old;
    carry_meta(c, obj, old);
    c->obj_name = kube_name(old);
    kube_prepare_update(c->doc, obj, old, c->kr);
    manage(c, obj, old, is_apply);
    if (c->res == c->a->services && c->kr->sub[0] == '\0') {
        api_svc_carry(c, obj, old);
    }
    if (!api_admit_update(c, obj, old)) {
        return;
    }
    struct kube_errs errs = KUBE_ERRS_INIT;
    if (kube_validate_update(obj, old, c->kr, &errs) < 0) {
        api_fail_invalid(c, c->kr, kube_name(old), &errs);
        return;
    }
    kube_errs_fini(&errs);
    if (!api_admit_updated(c, obj, old)) {
        return;
    }
    warnings_of(c, obj);
    bool gone = gone_by_update(c, obj, old);
    json_set(c->doc, json_get(obj, "metadata"), "resourceVersion",
             json_new_fmt(c->doc, "%lld", (long long)cur->rv));
    if (c->dry_run) {
        const struct kube_resource *kr = c->kr;
        c->kr = c->main;
        api_reply_tree(c, 200, obj);
        c->kr = kr;
        return;
    }
    if (!gone && is_same(c, obj, old)) {
        reply_written(c, 200, cur);
        return;
    }
    c->form = c->main;
    if (gone) {
        c->gone_tree = obj;
        api_commit(c, c->res, scope_ns(c), c->t.name, NULL, cur->rv, api_on_gone);
        return;
    }
    api_commit(c, c->res, scope_ns(c), c->t.name, obj, cur->rv, on_updated);
}

/* An update took the last finalizer away: the answer is the last state. */
void api_on_gone(struct api_call *c, int rc, struct api_obj *now, const struct err *e) {
    if (rc < 0 || c->gone_tree == NULL) {
        on_updated(c, rc, now, e);
        return;
    }
    const struct kube_resource *kr = c->kr;
    c->kr = c->main;
    api_reply_tree(c, 200, c->gone_tree);
    c->kr = kr;
}

static bool creates_on_update(const struct kube_resource *kr) {
    static const char *const list[] = {"endpoints",    "events",       "limitranges",
                                       "services",     "leases",       "roles",
                                       "rolebindings", "clusterroles", "clusterrolebindings"};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        if (strcmp(kr->name, list[i]) == 0) {
            return kr->sub[0] == '\0';
        }
    }
    return false;
}

static bool needs_rv(const struct kube_resource *kr) {
    static const char *const list[] = {"poddisruptionbudgets", "leases",
                                       "csidrivers",           "csinodes",
                                       "volumeattachments",    "runtimeclasses"};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        if (strcmp(kr->name, list[i]) == 0) {
            return true;
        }
    }
    /* Custom kinds are never updated unconditionally. */
    return (kr->sets & KUBE_SET_UPSTREAM) == 0;
}

static bool check_names(struct api_call *c, const struct json *obj) {
    if (strcmp(kube_name(obj), c->t.name) != 0) {
        api_fail(c, 400, "BadRequest",
                 "the name of the object (%s) does not match the name on the URL (%s)",
                 kube_name(obj), c->t.name);
        return false;
    }
    const char *ns = kube_namespace(obj);
    if (c->main->namespaced && ns[0] != '\0' && strcmp(ns, c->t.ns) != 0) {
        api_fail(
            c, 400, "BadRequest",
            "the namespace of the object (%s) does not match the namespace on the request (%s)", ns,
            c->t.ns);
        return false;
    }
    return true;
}

/* Preconditions that the new object carries: uid and resourceVersion. 0: answered. */
static bool check_current(struct api_call *c, const struct json *obj, const struct api_obj *cur) {
    const char *rv = kube_rv(obj);
    const char *uid = kube_uid(obj);
    const char *was = kube_uid(c->old);
    if (c->t.verb != API_V_PATCH && uid[0] != '\0' && strcmp(uid, was) != 0) {
        api_fail_conflict(c, c->t.resource, c->t.name,
                          "Precondition failed: UID in precondition: %s, UID in object meta: %s",
                          uid, was);
        return false;
    }
    if (rv[0] == '\0' || strcmp(rv, "0") == 0) {
        if (!needs_rv(c->main) || c->t.verb == API_V_PATCH) {
            return true;
        }
        struct kube_errs errs = KUBE_ERRS_INIT;
        kube_err_add(&errs, KUBE_INVALID, "metadata.resourceVersion", json_new_i64(c->doc, 0),
                     "must be specified for an update");
        AUTO(json_docp) struct json_doc *d = json_doc_new();
        struct json *s = kube_status_invalid(d, c->t.group, c->t.resource, c->t.name, &errs);
        kube_errs_fini(&errs);
        api_reply_status(c, s);
        return false;
    }
    char now[32];
    snprintf(now, sizeof now, "%lld", (long long)cur->rv);
    if (strcmp(rv, now) != 0) {
        api_fail_conflict(c, c->t.resource, c->t.name,
                          "the object has been modified; please apply your changes to the latest "
                          "version and try again");
        return false;
    }
    c->pinned = true;
    return true;
}

bool api_check_update(struct api_call *c, const struct json *obj, const struct api_obj *cur) {
    return check_names(c, obj) && check_current(c, obj, cur);
}

static void update_run(struct api_call *c) {
    if (api_wait_turn(c, c->res, scope_ns(c), c->t.name, update_run)) {
        return;
    }
    struct json *obj = api_decode_body(c, c->kr, true);
    struct api_obj *cur = NULL;
    if (obj == NULL || !check_names(c, obj)) {
        return;
    }
    c->old = api_load_tree(c, c->res, scope_ns(c), c->t.name, c->main, &cur);
    if (c->old == NULL) {
        struct api_attrs at = {.user = &c->user,
                               .verb = "create",
                               .group = c->t.group,
                               .version = c->t.version,
                               .resource = c->t.resource,
                               .sub = "",
                               .ns = c->t.ns,
                               .name = c->t.name};
        if (!creates_on_update(c->kr) || kube_rv(obj)[0] != '\0') {
            api_fail_not_found(c, c->t.group, c->t.resource, c->t.name);
        } else if (!api_authorize(c->a, &at)) {
            api_fail_forbidden(c, "User \"%s\" cannot create resource \"%s\" in API group \"%s\"",
                               c->user.name, c->t.resource, c->t.group);
        } else {
            c->again_on_conflict = true;
            api_finish_create(c, obj, false);
        }
        return;
    }
    c->again_on_conflict = false;
    if (check_current(c, obj, cur)) {
        /* Of a shared store a race may be lost to another object's change (api_svc.c): check_current knows. */
        c->again = c->pinned && !store_is_shared(c->a->store) ? NULL : update_run;
        api_finish_update(c, obj, cur, false);
    }
}

void api_update(struct api_call *c) {
    c->again = update_run;
    if (api_write_options(c, "UpdateOptions")) {
        update_run(c);
    }
}
