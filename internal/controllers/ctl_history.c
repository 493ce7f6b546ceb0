/* ControllerRevisions: the templates that a DaemonSet or StatefulSet has had. */
#include "internal/controllers/ctl_int.h"

/* What `kubectl rollout undo` applies: the template replaces the object's. */
static struct json *revision_data(struct json_doc *d, const struct json *owner) {
    struct json *data = json_new_obj(d), *spec = json_set_obj(d, data, "spec");
    struct json *t =
        json_set(d, spec, "template", json_copy(d, json_at(owner, "spec", "template")));
    json_set_str(d, t, "$patch", "replace");
    return data;
}

struct kinformer *ctl_revisions(struct controllers *c) {
    return kfactory_all(c->f, "apps", "v1", "controllerrevisions");
}

/* Creates (or raises to the newest) the revision of the current template. *ret_hash gets its label value. Old ones beyond
 * revisionHistoryLimit that no pod uses are removed. `pods` are the owner's. */
void ctl_history_sync(struct sync *s, struct ownindex *ix, const struct json *owner,
                      const struct objvec *pods, char ret_hash[LIM_KKEY], char ret_name[LIM_KKEY]) {
    struct json *data = revision_data(s->d, owner);
    struct objvec all = ctl_mine(ix, owner, NULL);
    const struct json *cur = NULL;
    int64_t max = 0;
    for (size_t i = 0; i < all.n; i++) {
        int64_t rev = json_i64(json_get(all.v[i], "revision"), 0);
        max = rev > max ? rev : max;
        if (json_eq(json_get(all.v[i], "data"), data) &&
            (!cur || rev > json_i64(json_get(cur, "revision"), 0))) {
            cur = all.v[i];
        }
    }
    char hash[16];
    ctl_template_hash(json_at(owner, "spec", "template"),
                      json_i64_at(owner, 0, "status", "collisionCount"), hash);
    const char *label = cur ? kube_label(cur, "controller-revision-hash") : hash;
    IGNORE_ERR(str_put(ret_hash, LIM_KKEY, "%s", label ? label : hash), "labels are short");
    IGNORE_ERR(str_put(ret_name, LIM_KKEY, "%s-%s", kube_name(owner), hash), "names fit");
    if (cur) {
        IGNORE_ERR(str_put(ret_name, LIM_KKEY, "%s", kube_name(cur)), "names fit");
    }
    if (!cur) {
        struct json *rev =
            kube_object_new(s->d, "apps/v1", "ControllerRevision", kube_namespace(owner), ret_name);
        struct json *labels =
            json_copy(s->d, json_at(owner, "spec", "template", "metadata", "labels"));
        json_set(s->d, json_get(rev, "metadata"), "labels", labels ? labels : json_new_obj(s->d));
        kube_label_set(s->d, rev, "controller-revision-hash", hash);
        kube_owner_add(s->d, rev, owner, true);
        json_set(s->d, rev, "data", data);
        json_set_i64(s->d, rev, "revision", max + 1);
        struct kref r = {"apps", "v1", "controllerrevisions", kube_namespace(owner), NULL, NULL};
        sync_create(s, ix->inf, &r, rev, NULL);
    } else if (json_i64(json_get(cur, "revision"), 0) < max) {
        struct json *patch = json_new_obj(s->d);
        json_set_i64(s->d, patch, "revision", max + 1);
        struct kref r = ctl_ref("apps", "v1", "controllerrevisions", cur, NULL);
        sync_patch(s, ix->inf, &r, KPATCH_MERGE, patch, NULL);
    }
    int64_t excess = (int64_t)all.n - 1 - json_i64_at(owner, 10, "spec", "revisionHistoryLimit");
    while (excess-- > 0) {
        size_t oldest = SIZE_MAX;
        for (size_t i = 0; i < all.n; i++) {
            bool used = all.v[i] == cur || !all.v[i];
            for (size_t k = 0; k < pods->n && !used; k++) {
                used = str_eq(kube_label(pods->v[k], "controller-revision-hash"),
                              kube_label(all.v[i], "controller-revision-hash"));
            }
            if (!used &&
                (oldest == SIZE_MAX || json_i64(json_get(all.v[i], "revision"), 0) <
                                           json_i64(json_get(all.v[oldest], "revision"), 0))) {
                oldest = i;
            }
        }
        if (oldest == SIZE_MAX) {
            break;
        }
        struct kref r = ctl_ref("apps", "v1", "controllerrevisions", all.v[oldest], NULL);
        sync_delete(s, ix->inf, &r, NULL, kube_uid(all.v[oldest]), NULL);
        all.v[oldest] = NULL;
    }
    objvec_fini(&all);
}
