/* Which kinds the API server serves; for the controllers that deal with any kind. */
#include "internal/controllers/ctl_int.h"

enum { LIM_KINDS = 1024 };

void ctl_kinds_fini(struct ctl_kinds *k) {
    for (size_t i = 0; i < k->n; i++) {
        free(k->v[i].group);
        free(k->v[i].version);
        free(k->v[i].resource);
        free(k->v[i].kind);
    }
    free(k->v);
    *k = (struct ctl_kinds){NULL, 0, false};
}

static bool has_verb(const struct json *res, const char *verb) {
    JSON_EACH(it, v, json_get(res, "verbs")) {
        if (str_eq(json_str(v), verb)) {
            return true;
        }
    }
    return false;
}

static void on_resources(struct sync *s, int rc, struct json *list, const struct err *e) {
    struct ctl_kinds *k = s->kinds;
    struct span group, version;
    (void)e;
    if (rc < 0) {
        /* An aggregated API that is down must not make us forget its objects. */
        k->is_incomplete |= rc != -ERR_NOT_FOUND;
        s->failed = false;
        return;
    }
    if (kube_gv_split(json_str_or(json_get(list, "groupVersion"), ""), &group, &version) < 0) {
        return;
    }
    JSON_EACH(it, res, json_get(list, "resources")) {
        const char *name = json_str_or(json_get(res, "name"), "/");
        bool events_again = str_eq(name, "events") && group.n; /* the same events are in v1 */
        if (strchr(name, '/') || !has_verb(res, "delete") || !has_verb(res, "list") ||
            events_again || k->n == LIM_KINDS) {
            continue;
        }
        k->v = mem_array(k->v, k->n + 1, sizeof(*k->v), LIM_KINDS);
        CHECK(k->v);
        k->v[k->n++] = (struct ctl_kind){
            .group = str_dupn(group.p, group.n),
            .version = str_dupn(version.p, version.n),
            .resource = str_dup(name),
            .kind = str_dup(json_str_or(json_get(res, "kind"), "")),
            .namespaced = json_bool(json_get(res, "namespaced"), false),
            .can_watch = has_verb(res, "watch"),
        };
    }
}

static void on_groups(struct sync *s, int rc, struct json *list, const struct err *e) {
    (void)e;
    s->kinds->is_incomplete |= rc < 0;
    JSON_EACH(it, g, json_get(list, "groups")) {
        AUTO(buf) struct buf path = BUF_INIT(1024);
        buf_fmt(&path, "/apis/%s", json_str_or(json_at(g, "preferredVersion", "groupVersion"), ""));
        sync_get_path(s, buf_cstr(&path), on_resources);
    }
}

void ctl_discover(struct sync *s, struct ctl_kinds *ret) {
    s->kinds = ret;
    sync_get_path(s, "/api/v1", on_resources);
    sync_get_path(s, "/apis", on_groups);
}
