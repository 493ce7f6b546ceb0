#include "internal/apiserver/api_int.h"

/* RBAC over compact tables of all roles and bindings, rebuilt when one of them has changed. */

struct words {
    const char **v;
    size_t n;
};
struct rule {
    struct words verbs, groups, resources, names, urls;
};
struct role {
    struct rule *rules;
    size_t n;
};
struct subject {
    enum { SUBJ_USER, SUBJ_GROUP, SUBJ_SA } kind;
    const char *name; /* SA: the full user name */
};
struct binding {
    const char *ns; /* "" for cluster bindings */
    const struct role *role;
    struct subject *subjects;
    size_t n;
};

struct api_rbac {
    struct arena mem;
    struct map roles;         /* "ns/name", "/name" */
    struct binding *bindings; /* cluster-wide first, then by namespace */
    size_t n, n_cluster;
    unsigned generation;
};

enum { LIM_RBAC_MEM = 256 << 20 };

static struct words words_of(struct arena *m, const struct json *arr) {
    struct words w = {NULL, 0};
    size_t n = json_len(arr);
    w.v = n > 0 ? arena_alloc(m, n * sizeof *w.v) : NULL;
    if (w.v == NULL) {
        return w;
    }
    JSON_EACH(it, v, arr) {
        const char *s = json_str(v);
        if (s != NULL) {
            w.v[w.n++] = arena_str(m, span_str(s));
        }
    }
    return w;
}

static void rule_read(struct arena *m, const struct json *r, struct rule *ret) {
    ret->verbs = words_of(m, json_get(r, "verbs"));
    ret->groups = words_of(m, json_get(r, "apiGroups"));
    ret->resources = words_of(m, json_get(r, "resources"));
    ret->names = words_of(m, json_get(r, "resourceNames"));
    ret->urls = words_of(m, json_get(r, "nonResourceURLs"));
}

static struct role *role_read(struct arena *m, const struct json *rules) {
    struct role *r = arena_new(m, struct role);
    size_t n = json_len(rules);
    if (r == NULL || n == 0) {
        return r;
    }
    r->rules = arena_alloc(m, n * sizeof *r->rules);
    if (r->rules == NULL) {
        return NULL;
    }
    JSON_EACH(it, v, rules) {
        rule_read(m, v, &r->rules[r->n++]);
    }
    return r;
}

static void load_roles(struct apiserver *a, struct api_rbac *t, const char *resource) {
    struct api_res *res = api_res_find(a, "rbac.authorization.k8s.io", resource);
    for (size_t i = 0; res != NULL && i < res->n; i++) {
        AUTO(json_docp) struct json_doc *d = NULL;
        if (api_obj_parse(res->objs[i], &d) < 0) {
            continue;
        }
        AUTO_FREE char *key =
            str_fmt("%s/%s", kube_namespace(json_root(d)), kube_name(json_root(d)));
        struct role *r = role_read(&t->mem, json_get(json_root(d), "rules"));
        if (r != NULL) {
            map_put_str(&t->roles, key, r);
        }
    }
}

static void subjects_read(struct api_rbac *t, const struct json *arr, const char *ns,
                          struct binding *b) {
    size_t n = json_len(arr);
    b->subjects = n > 0 ? arena_alloc(&t->mem, n * sizeof *b->subjects) : NULL;
    if (b->subjects == NULL) {
        return;
    }
    JSON_EACH(it, s, arr) {
        const char *kind = json_str_or(json_get(s, "kind"), "");
        const char *name = json_str_or(json_get(s, "name"), "");
        struct subject *o = &b->subjects[b->n++];
        if (strcmp(kind, "ServiceAccount") == 0) {
            o->kind = SUBJ_SA;
            o->name = arena_fmt(&t->mem, "system:serviceaccount:%s:%s",
                                json_str_or(json_get(s, "namespace"), ns), name);
        } else {
            o->kind = strcmp(kind, "Group") == 0 ? SUBJ_GROUP : SUBJ_USER;
            o->name = arena_str(&t->mem, span_str(name));
        }
        if (o->name == NULL) {
            b->n--;
        }
    }
}

static void load_bindings(struct apiserver *a, struct api_rbac *t, const char *resource) {
    struct api_res *res = api_res_find(a, "rbac.authorization.k8s.io", resource);
    for (size_t i = 0; res != NULL && i < res->n; i++) {
        AUTO(json_docp) struct json_doc *d = NULL;
        if (api_obj_parse(res->objs[i], &d) < 0) {
            continue;
        }
        const struct json *o = json_root(d);
        const char *ns = kube_namespace(o);
        bool cluster = str_eq(json_str_at(o, "roleRef", "kind"), "ClusterRole");
        AUTO_FREE char *key =
            str_fmt("%s/%s", cluster ? "" : ns, json_str_or(json_at(o, "roleRef", "name"), ""));
        const struct role *role = map_get_str(&t->roles, key);
        if (role == NULL) {
            continue;
        }
        struct binding *b = &t->bindings[t->n++];
        b->ns = arena_str(&t->mem, span_str(ns));
        b->role = role;
        subjects_read(t, json_get(o, "subjects"), ns, b);
    }
}

void api_rbac_free(struct apiserver *a) {
    if (a->rbac != NULL) {
        arena_fini(&a->rbac->mem);
        map_fini(&a->rbac->roles);
        free(a->rbac->bindings);
        free(a->rbac);
        a->rbac = NULL;
    }
}

static unsigned generation(const struct apiserver *a, size_t *n_bindings) {
    static const char *const names[] = {"clusterroles", "roles", "clusterrolebindings",
                                        "rolebindings"};
    unsigned g = 1;
    *n_bindings = 0;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct api_res *res = api_res_find(a, "rbac.authorization.k8s.io", names[i]);
        if (res != NULL) {
            g += res->generation;
            *n_bindings += i >= 2 ? res->n : 0;
        }
    }
    return g;
}

static struct api_rbac *tables(struct apiserver *a) {
    size_t n = 0;
    unsigned g = generation(a, &n);
    if (a->rbac != NULL && a->rbac->generation == g) {
        return a->rbac;
    }
    api_rbac_free(a);
    struct api_rbac *t = new_zero(struct api_rbac);
    t->mem = (struct arena)ARENA_INIT(LIM_RBAC_MEM);
    t->generation = g;
    t->bindings = mem_array(NULL, n + 1, sizeof *t->bindings, 1u << 24);
    if (t->bindings != NULL) {
        memset(t->bindings, 0, (n + 1) * sizeof *t->bindings);
        load_roles(a, t, "clusterroles");
        load_roles(a, t, "roles");
        load_bindings(a, t, "clusterrolebindings");
        t->n_cluster = t->n;
        load_bindings(a, t, "rolebindings");
    }
    a->rbac = t;
    return t;
}

static bool has(const struct words *w, const char *s) {
    for (size_t i = 0; i < w->n; i++) {
        if (strcmp(w->v[i], s) == 0 || strcmp(w->v[i], "*") == 0) {
            return true;
        }
    }
    return false;
}

static bool resource_matches(const struct words *w, const char *resource, const char *sub) {
    for (size_t i = 0; i < w->n; i++) {
        struct span s = span_str(w->v[i]);
        struct span head;
        if (span_eq_str(s, "*")) {
            return true;
        }
        bool slash = span_index(s, '/') >= 0;
        span_next(&s, '/', &head);
        if (!slash ? sub[0] == '\0' && span_eq_str(head, resource)
                   : sub[0] != '\0' && span_eq_str(s, sub) &&
                         (span_eq_str(head, "*") || span_eq_str(head, resource))) {
            return true;
        }
    }
    return false;
}

static bool url_matches(const struct words *w, const char *path) {
    for (size_t i = 0; i < w->n; i++) {
        const char *u = w->v[i];
        size_t n = strlen(u);
        if (strcmp(u, "*") == 0 || strcmp(u, path) == 0 ||
            (n > 0 && u[n - 1] == '*' && strncmp(u, path, n - 1) == 0)) {
            return true;
        }
    }
    return false;
}

static bool rule_allows(const struct rule *r, const struct api_attrs *t) {
    if (!has(&r->verbs, t->verb)) {
        return false;
    }
    if (t->resource == NULL) {
        return url_matches(&r->urls, t->path);
    }
    if (!has(&r->groups, t->group) || !resource_matches(&r->resources, t->resource, t->sub)) {
        return false;
    }
    if (r->names.n == 0) {
        return true;
    }
    for (size_t i = 0; i < r->names.n; i++) {
        if (strcmp(r->names.v[i], t->name) == 0) {
            return true;
        }
    }
    return false;
}

static bool applies(const struct binding *b, const struct api_user *u) {
    for (size_t i = 0; i < b->n; i++) {
        const struct subject *s = &b->subjects[i];
        if (s->kind == SUBJ_GROUP ? api_user_in(u, s->name) : strcmp(s->name, u->name) == 0) {
            return true;
        }
    }
    return false;
}

bool api_rbac_allows(struct apiserver *a, const struct api_attrs *t) {
    const struct api_rbac *r = tables(a);
    bool in_ns = t->resource != NULL && t->ns[0] != '\0';
    for (size_t i = 0; i < (in_ns ? r->n : r->n_cluster); i++) {
        const struct binding *b = &r->bindings[i];
        if ((i >= r->n_cluster && strcmp(b->ns, t->ns) != 0) || !applies(b, t->user)) {
            continue;
        }
        for (size_t k = 0; k < b->role->n; k++) {
            if (rule_allows(&b->role->rules[k], t)) {
                return true;
            }
        }
    }
    return false;
}

/* ---- what a user may do, as a list ---- */

static void put_words(struct json_doc *d, struct json *o, const char *key, const struct words *w) {
    if (w->n == 0) {
        return;
    }
    struct json *arr = json_set_arr(d, o, key);
    for (size_t i = 0; i < w->n; i++) {
        json_push_str(d, arr, w->v[i]);
    }
}

void api_rbac_rules(struct apiserver *a, const struct api_user *u, const char *ns,
                    struct json_doc *d, struct json *resource_rules,
                    struct json *non_resource_rules) {
    const struct api_rbac *r = tables(a);
    for (size_t i = 0; i < r->n; i++) {
        const struct binding *b = &r->bindings[i];
        if ((i >= r->n_cluster && strcmp(b->ns, ns) != 0) || !applies(b, u)) {
            continue;
        }
        for (size_t k = 0; k < b->role->n; k++) {
            const struct rule *rule = &b->role->rules[k];
            struct json *o = json_new_obj(d);
            put_words(d, o, "verbs", &rule->verbs);
            if (rule->urls.n > 0) {
                put_words(d, o, "nonResourceURLs", &rule->urls);
                json_push(non_resource_rules, o);
            } else {
                put_words(d, o, "apiGroups", &rule->groups);
                put_words(d, o, "resources", &rule->resources);
                put_words(d, o, "resourceNames", &rule->names);
                json_push(resource_rules, o);
            }
        }
    }
}

/* ---- escalation: may the user hand these rules out? ---- */

static void describe(struct buf *b, const struct rule *r) {
    const struct {
        const char *name;
        const struct words *w;
    } parts[] = {{"APIGroups", &r->groups},
                 {"Resources", &r->resources},
                 {"ResourceNames", &r->names},
                 {"NonResourceURLs", &r->urls},
                 {"Verbs", &r->verbs}};
    bool first = true;
    buf_str(b, "\n{");
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (parts[i].w->n == 0) {
            continue;
        }
        buf_fmt(b, "%s%s:[", first ? "" : ", ", parts[i].name);
        for (size_t k = 0; k < parts[i].w->n; k++) {
            buf_fmt(b, "%s\"%s\"", k > 0 ? ", " : "", parts[i].w->v[k]);
        }
        buf_u8(b, ']');
        first = false;
    }
    buf_u8(b, '}');
}

/* Does the user hold every (verb, group, resource, name) of the rule? A "*" asked for needs a "*" held: rule_allows
 * compares text, so the asterisk is asked for as itself. */
static bool holds(struct apiserver *a, const struct api_user *u, const char *ns,
                  const struct rule *r, struct arena *mem) {
    static const char *const any[] = {""};
    struct api_attrs t = {.user = u, .ns = ns, .version = "", .sub = "", .name = ""};
    const char *const *names = r->names.n > 0 ? (const char *const *)r->names.v : any;
    for (size_t v = 0; v < r->verbs.n; v++) {
        t.verb = r->verbs.v[v];
        for (size_t p = 0; p < r->urls.n; p++) {
            t.resource = NULL;
            t.path = r->urls.v[p];
            if (!api_rbac_allows(a, &t)) {
                return false;
            }
        }
        for (size_t g = 0; g < r->groups.n; g++) {
            t.group = r->groups.v[g];
            for (size_t k = 0; k < r->resources.n; k++) {
                struct span sub = span_str(r->resources.v[k]);
                struct span res;
                span_next(&sub, '/', &res);
                t.resource = arena_str(mem, res);
                t.sub = arena_str(mem, sub);
                for (size_t n = 0; n < (r->names.n > 0 ? r->names.n : 1); n++) {
                    t.name = names[n];
                    if (t.resource == NULL || t.sub == NULL || !api_rbac_allows(a, &t)) {
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

bool api_rbac_covers(struct apiserver *a, const struct api_user *u, const char *ns,
                     const struct json *rules, struct arena *mem, const char **ret_missing) {
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    JSON_EACH(it, v, rules) {
        struct rule r;
        rule_read(mem, v, &r);
        if (!holds(a, u, ns, &r, mem)) {
            describe(&b, &r);
        }
    }
    if (b.n == 0) {
        return true;
    }
    *ret_missing = arena_str(mem, buf_view(&b));
    return false;
}

const struct json *api_rbac_role_rules(struct apiserver *a, const char *ns, const char *kind,
                                       const char *name, struct json_doc **ret_doc) {
    bool cluster = strcmp(kind, "ClusterRole") == 0;
    struct api_res *res =
        api_res_find(a, "rbac.authorization.k8s.io", cluster ? "clusterroles" : "roles");
    struct api_obj *o = api_cache_find(res, cluster ? "" : ns, name);
    if (o == NULL || api_obj_parse(o, ret_doc) < 0) {
        return NULL;
    }
    return json_get(json_root(*ret_doc), "rules");
}
