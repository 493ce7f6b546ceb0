#include "internal/kube/kube.h"

#include "internal/base/rand.h"
#include "internal/kube/kube_ssa_int.h"

#include <stdlib.h>

/* metadata.managedFields: who owns which fields, kept over every write, and server-side apply on top of it. */

enum { LIM_MANAGERS = 256, LIM_UPDATE_MANAGERS = 10, LIM_MANAGER_NAME = 128 };

struct entry {
    const char *manager, *op, *api_version, *sub, *time; /* time NULL: none */
    struct fset *set;
};

struct managed {
    struct ssa s;
    struct entry e[LIM_MANAGERS + 1];
    size_t n;
};

static struct managed *managed_new(struct json_doc *d) {
    struct managed *m = new_zero(struct managed);
    m->s.a = (struct arena)ARENA_INIT(LIM_SSA_BYTES);
    m->s.d = d;
    return m;
}
static void managed_free(struct managed *m) {
    arena_fini(&m->s.a);
    free(m);
}

static const char *keep(struct managed *m, const char *s) {
    char *c = arena_str(&m->s.a, span_str(s));
    CHECK(c);
    return c;
}

static void load(struct managed *m, const struct json *list) {
    JSON_EACH(it, x, list) {
        if (m->n == LIM_MANAGERS || !json_is_obj(json_get(x, "fieldsV1"))) {
            continue;
        }
        const char *t = json_str(json_get(x, "time"));
        m->e[m->n++] = (struct entry){keep(m, json_str_or(json_get(x, "manager"), "")),
                                      keep(m, json_str_or(json_get(x, "operation"), "Update")),
                                      keep(m, json_str_or(json_get(x, "apiVersion"), "")),
                                      keep(m, json_str_or(json_get(x, "subresource"), "")),
                                      t ? keep(m, t) : NULL,
                                      fset_parse(&m->s.a, json_get(x, "fieldsV1"))};
    }
}

/* An applier is one whatever version it speaks; an updater is told apart by it. */
static struct entry *find(struct managed *m, const char *manager, const char *op,
                          const char *api_version, const char *sub) {
    for (size_t i = 0; i < m->n; i++) {
        struct entry *e = &m->e[i];
        if (str_eq(e->manager, manager) && str_eq(e->op, op) && str_eq(e->sub, sub) &&
            (str_eq(op, "Apply") || str_eq(e->api_version, api_version))) {
            return e;
        }
    }
    return NULL;
}

static struct entry *need(struct managed *m, const char *manager, const char *op,
                          const char *api_version, const char *sub) {
    struct entry *e = find(m, manager, op, api_version, sub);
    if (!e) {
        e = &m->e[m->n < LIM_MANAGERS ? m->n++ : LIM_MANAGERS];
        *e = (struct entry){keep(m, manager), keep(m, op), keep(m, api_version),
                            keep(m, sub),     NULL,        NULL};
    }
    return e;
}

/* ---- what nobody owns ------------------------------------------------------------------------------------ */

static void forget(struct fset *s, const char *key) {
    struct fset *k = fset_kid(s, key);
    if (k) {
        k->member = false;
        k->n = 0;
    }
}

/* Identity and bookkeeping are the server's; the status belongs to its subresource. */
static struct fset *strip(struct managed *m, struct fset *s, const struct kube_resource *r) {
    static const char *const meta[] = {"f:name",
                                       "f:namespace",
                                       "f:creationTimestamp",
                                       "f:selfLink",
                                       "f:uid",
                                       "f:clusterName",
                                       "f:generation",
                                       "f:managedFields",
                                       "f:resourceVersion",
                                       "f:deletionTimestamp",
                                       "f:deletionGracePeriodSeconds"};
    forget(s, "f:apiVersion");
    forget(s, "f:kind");
    struct fset *md = fset_kid(s, "f:metadata");
    for (size_t i = 0; md && i < ARRAY_LEN(meta); i++) {
        forget(md, meta[i]);
    }
    if (md) {
        md->member = false;
    }
    if (r->type->hook == KH_CSR) {
        forget(s, "f:spec");
    }
    if (!*r->sub && kube_has_sub(r, "status")) {
        forget(s, "f:status");
    } else if (str_eq(r->sub, "status")) {
        forget(s, "f:spec");
    }
    return fset_minus(&m->s.a, s, NULL); /* without the empty branches */
}

/* ---- writing back ------------------------------------------------------------------------------------------ */

static int by_order(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int c = strcmp(x->op, y->op);
    uint64_t tx = 0, ty = 0;
    IGNORE_ERR(x->time ? time_parse(span_str(x->time), &tx) : 0, "a bad time sorts first");
    IGNORE_ERR(y->time ? time_parse(span_str(y->time), &ty) : 0, "a bad time sorts first");
    c = c ? c : tx < ty ? -1 : tx > ty;
    c = c ? c : strcmp(x->manager, y->manager);
    c = c ? c : strcmp(x->api_version, y->api_version);
    return c ? c : strcmp(x->sub, y->sub);
}

static size_t n_updaters(const struct managed *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) {
        n += str_eq(m->e[i].op, "Update") && !fset_empty(m->e[i].set) ? 1 : 0;
    }
    return n;
}

/* More than ten updaters: the oldest become one. */
static void cap_updaters(struct managed *m) {
    static const char ancient[] = "ancient-changes";
    while (n_updaters(m) > LIM_UPDATE_MANAGERS) {
        struct entry *old = NULL;
        for (size_t i = 0; i < m->n; i++) {
            struct entry *e = &m->e[i];
            bool plain =
                str_eq(e->op, "Update") && !fset_empty(e->set) && !str_eq(e->manager, ancient);
            if (plain && (!old || by_order(e, old) < 0)) {
                old = e;
            }
        }
        if (!old) {
            return;
        }
        struct fset *set = old->set;
        old->set = NULL;
        struct entry *all = need(m, ancient, "Update", old->api_version, old->sub);
        all->set = fset_union(&m->s.a, all->set, set);
        all->time = old->time;
    }
}

static void save(struct managed *m, struct json *obj) {
    struct json_doc *d = m->s.d;
    struct json *meta = json_need_obj(d, obj, "metadata"), *list = json_new_arr(d);
    cap_updaters(m);
    qsort(m->e, m->n, sizeof(m->e[0]), by_order);
    for (size_t i = 0; i < m->n; i++) {
        const struct entry *e = &m->e[i];
        if (fset_empty(e->set)) {
            continue;
        }
        struct json *x = json_new_obj(d);
        json_set_str(d, x, "manager", e->manager);
        json_set_str(d, x, "operation", e->op);
        json_set_str(d, x, "apiVersion", e->api_version);
        json_set_str(d, x, "time", e->time);
        json_set_str(d, x, "fieldsType", "FieldsV1");
        json_set(d, x, "fieldsV1", fset_write(d, e->set));
        if (*e->sub) {
            json_set_str(d, x, "subresource", e->sub);
        }
        json_push(list, x);
    }
    if (json_len(list)) {
        json_set(d, meta, "managedFields", list);
    } else {
        json_del(meta, "managedFields");
    }
}

/* ---- plain writes -------------------------------------------------------------------------------------------- */

/* What Go's zero value of t looks like in JSON: the start that a created object is compared with. */
static struct json *zero_of(struct json_doc *d, const struct kube_type *t) {
    struct json *z = json_new_obj(d);
    const struct kube_field *f = kube_fields(t);
    kube_fill_absent(d, z, t);
    for (size_t i = 0; i < t->n; i++) {
        const char *key = kube_str(f[i].name);
        struct json *x = json_get(z, key);
        if (f[i].presence == KP_KEEP) {
            json_set(d, z, key, json_new_null(d));
        } else if (f[i].presence == KP_STRUCT && f[i].base == KB_OBJECT && json_is_obj(x)) {
            json_set(d, z, key, zero_of(d, kube_field_type(&f[i])));
        }
    }
    return z;
}

static struct ssa_diff compare(struct managed *m, const struct json *old, const struct json *now,
                               const struct kube_resource *r) {
    struct arena *a = &m->s.a;
    struct ssa_diff d = {fset_new(a, ""), fset_new(a, ""), fset_new(a, "")};
    struct json *zero = old ? NULL : zero_of(m->s.d, r->type);
    ssa_compare(&m->s, old ? old : zero, now, (struct place){r->type, NULL, false}, &d);
    d.added = strip(m, d.added, r);
    d.modified = strip(m, d.modified, r);
    d.removed = strip(m, d.removed, r);
    return d;
}

static bool is_reset(const struct json *list) {
    return json_is_arr(list) &&
           (json_len(list) == 0 || (json_len(list) == 1 && !json_len(json_idx(list, 0))));
}

/* Takes from every owner but `self` what the write changed or removed. */
static void take_away(struct managed *m, const struct entry *self, const struct fset *changed,
                      const struct fset *removed) {
    for (size_t i = 0; i < m->n; i++) {
        struct entry *e = &m->e[i];
        if (e != self) {
            e->set = fset_minus(&m->s.a, fset_minus(&m->s.a, e->set, changed), removed);
        }
    }
}

void kube_managed_update(struct json_doc *d, const struct kube_resource *r, const struct json *old,
                         struct json *obj, const struct kube_apply_opts *o, bool is_apply) {
    struct json *meta = json_need_obj(d, obj, "metadata"), *given = json_get(meta, "managedFields");
    if (is_apply || !r->type || !kube_field_find(r->type, SPAN_LIT("metadata"))) {
        return;
    }
    if (given && is_reset(given) && old) {
        json_del(meta, "managedFields");
        return;
    }
    struct managed *m = managed_new(d);
    load(m, given);
    if (!m->n) {
        load(m, json_at(old, "metadata", "managedFields"));
    }
    if (old && !m->n) { /* what was never tracked stays so until it is applied */
        json_del(meta, "managedFields");
        managed_free(m);
        return;
    }
    struct ssa_diff diff = compare(m, old, obj, r);
    struct fset *changed = fset_union(&m->s.a, diff.added, diff.modified);
    struct entry *self =
        need(m, o->manager ? o->manager : "", "Update", kube_api_version(r), r->sub);
    struct fset *set = fset_minus(&m->s.a, fset_union(&m->s.a, self->set, changed), diff.removed);
    if (!fset_eq(set, self->set)) {
        self->time = o->time;
    }
    self->set = set;
    take_away(m, self, changed, diff.removed);
    save(m, obj);
    managed_free(m);
}

struct span kube_manager_of_agent(struct span agent) {
    ptrdiff_t at = span_index(agent, '/');
    struct span s = at >= 0 ? span_of(agent.p, (size_t)at) : agent;
    size_t n = 0;
    while (n < s.n && n < LIM_MANAGER_NAME && s.p[n] >= 0x20 && s.p[n] < 0x7f) {
        n++;
    }
    return n ? span_of(s.p, n) : SPAN_LIT("unknown");
}

/* ---- apply ------------------------------------------------------------------------------------------------------ */

struct conflict_walk {
    struct kube_errs *errs;
    struct buf *lines;
    const char *who;
    const char *first; /* path of the first conflict of all */
    size_t n;
};

static void on_conflict(void *arg, const char *path) {
    struct conflict_walk *w = arg;
    kube_errs_raw(w->errs, "FieldManagerConflict", path, "conflict with %s", w->who);
    buf_fmt(w->lines, "\n- %s", path);
    w->n++;
}

static int by_manager(const void *a, const void *b) {
    const struct entry *const *x = a, *const *y = b;
    return strcmp((*x)->manager, (*y)->manager);
}

/* Fields that others own and this would change. Returns their number, with causes and the message in errs. */
static size_t conflicts(struct managed *m, const struct entry *self, const struct fset *changed,
                        struct kube_errs *errs) {
    AUTO(buf) struct buf lines = BUF_INIT(1u << 20);
    const struct entry *others[LIM_MANAGERS + 1];
    size_t n = 0, total = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (&m->e[i] != self) {
            others[n++] = &m->e[i];
        }
    }
    qsort(others, n, sizeof(others[0]), by_manager);
    for (size_t i = 0; i < n; i++) {
        struct fset *both = fset_and(&m->s.a, others[i]->set, changed);
        if (fset_empty(both)) {
            continue;
        }
        AUTO(buf) struct buf who = BUF_INIT(4096);
        json_write_str(&who, span_str(others[i]->manager));
        if (*others[i]->sub) {
            buf_fmt(&who, " with subresource \"%s\"", others[i]->sub);
        }
        if (str_eq(others[i]->op, "Update")) {
            buf_fmt(&who, " using %s", others[i]->api_version);
        }
        struct conflict_walk w = {errs, &lines, buf_cstr(&who), NULL, 0};
        buf_fmt(&lines, "%sconflicts with %s:", lines.n ? "\n" : "", buf_cstr(&who));
        fset_each(both, on_conflict, &w);
        total += w.n;
    }
    if (total == 1) {
        kube_errs_text(errs, "Apply failed with 1 conflict: %s: %s", errs->list[0].message,
                       errs->list[0].field);
    } else if (total) {
        kube_errs_text(errs, "Apply failed with %zu conflicts: %s", total, buf_cstr(&lines));
    }
    return total;
}

static int check(const struct kube_resource *r, const struct json *applied,
                 struct kube_errs *errs) {
    AUTO(buf) struct buf b = BUF_INIT(1u << 20);
    struct kube_path path = {.n = 0};
    size_t n = ssa_check(applied, (struct place){r->type, NULL, false}, &path, &b);
    if (!n) {
        return 0;
    }
    AUTO(buf) struct buf all = BUF_INIT(1u << 20);
    struct span s = buf_view(&b), line;
    if (n > 1) {
        buf_str(&all, "errors:");
        while (s.n && span_line(&s, &line) == 0) {
            buf_fmt(&all, "\n  %.*s", SPAN_FMT(line));
        }
    } else {
        buf_span(&all, s);
    }
    kube_errs_text(errs, "failed to create typed patch object (%s/%s; %s%s, Kind=%s): %s",
                   kube_namespace(applied), kube_name(applied), *r->body_group ? "" : "/",
                   json_str_or(json_get(applied, "apiVersion"), ""), r->kind, buf_cstr(&all));
    return -ERR_INTERNAL;
}

/* An object that was never applied or tracked belongs, as it is, to those who wrote it before. */
static void adopt(struct managed *m, const struct json *live, const struct kube_resource *r,
                  const char *time) {
    struct ssa_diff d = compare(m, NULL, live, r);
    struct entry *e = need(m, "before-first-apply", "Update", kube_api_version(r), r->sub);
    e->set = fset_union(&m->s.a, d.added, d.modified);
    e->time = time;
}

int kube_apply(struct json_doc *d, const struct kube_resource *r, const struct json *live,
               const struct json *applied, const struct kube_apply_opts *o, struct json **ret,
               struct kube_errs *errs) {
    if (!r->type) {
        kube_errs_text(errs, "server-side apply needs a schema");
        return -ERR_UNSUPPORTED;
    }
    if (json_at(applied, "metadata", "managedFields")) {
        kube_errs_text(errs, "metadata.managedFields must be nil");
        return -ERR_INVALID;
    }
    int rc = check(r, applied, errs);
    if (rc < 0) {
        return rc;
    }
    struct place root = {r->type, NULL, false};
    struct managed *m = managed_new(d);
    load(m, json_at(live, "metadata", "managedFields"));
    if (live && !m->n) {
        adopt(m, live, r, o->time);
    }
    struct entry *self =
        need(m, o->manager ? o->manager : "", "Apply", kube_api_version(r), r->sub);
    struct fset *last = self->set, *set = fset_new(&m->s.a, ""), *owned = NULL;
    ssa_set_of(&m->s, applied, root, set);
    struct fset *said =
        fset_union(&m->s.a, set, NULL); /* with the name, so that metadata itself is never pruned */
    set = strip(m, set, r);
    struct json *out = live ? ssa_merge(&m->s, live, applied, root) : json_copy(d, applied);
    self->api_version = kube_api_version(r);
    if (!fset_eq(set, last)) {
        self->time = o->time;
    }
    self->set = set;
    if (!fset_empty(last)) {
        owned = said;
        for (size_t i = 0; i < m->n; i++) {
            owned = fset_union(&m->s.a, owned, m->e[i].set);
        }
        ssa_prune(&m->s, out, last, owned, root);
    }
    json_del(json_get(out, "metadata"), "managedFields");
    struct ssa_diff diff = compare(m, live, out, r);
    struct fset *changed = fset_union(&m->s.a, diff.added, diff.modified);
    if (!o->force && conflicts(m, self, changed, errs)) {
        managed_free(m);
        return -ERR_CONFLICT;
    }
    take_away(m, self, changed, diff.removed);
    save(m, out);
    managed_free(m);
    *ret = out;
    return 0;
}
