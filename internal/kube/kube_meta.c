#include "internal/kube/kube.h"

#include "internal/kube/kube_int.h"

const char *kube_name(const struct json *obj) {
    return json_str_or(json_at(obj, "metadata", "name"), "");
}
const char *kube_namespace(const struct json *obj) {
    return json_str_or(json_at(obj, "metadata", "namespace"), "");
}
const char *kube_uid(const struct json *obj) {
    return json_str_or(json_at(obj, "metadata", "uid"), "");
}
const char *kube_rv(const struct json *obj) {
    return json_str_or(json_at(obj, "metadata", "resourceVersion"), "");
}
struct json *kube_labels(const struct json *obj) {
    return json_at(obj, "metadata", "labels");
}
const char *kube_label(const struct json *obj, const char *key) {
    return json_str(json_at(obj, "metadata", "labels", key));
}
const char *kube_annotation(const struct json *obj, const char *key) {
    return json_str(json_at(obj, "metadata", "annotations", key));
}

static void meta_map_set(struct json_doc *d, struct json *obj, const char *map, const char *key,
                         const char *value) {
    struct json *meta = json_need_obj(d, obj, "metadata");
    if (value) {
        json_set_str(d, json_need_obj(d, meta, map), key, value);
    } else if (json_del(json_get(meta, map), key) && !json_len(json_get(meta, map))) {
        json_del(meta, map);
    }
}
void kube_annotate(struct json_doc *d, struct json *obj, const char *key, const char *value) {
    meta_map_set(d, obj, "annotations", key, value);
}
void kube_label_set(struct json_doc *d, struct json *obj, const char *key, const char *value) {
    meta_map_set(d, obj, "labels", key, value);
}

bool kube_is_deleting(const struct json *obj) {
    return json_is_str(json_at(obj, "metadata", "deletionTimestamp"));
}

bool kube_has_finalizer(const struct json *obj, const char *name) {
    JSON_EACH(it, f, json_at(obj, "metadata", "finalizers")) {
        if (str_eq(json_str(f), name)) {
            return true;
        }
    }
    return false;
}
void kube_finalizer_add(struct json_doc *d, struct json *obj, const char *name) {
    if (!kube_has_finalizer(obj, name)) {
        json_push_str(d, json_need_arr(d, json_need_obj(d, obj, "metadata"), "finalizers"), name);
    }
}
bool kube_finalizer_remove(struct json *obj, const char *name) {
    struct json *meta = json_get(obj, "metadata"), *arr = json_get(meta, "finalizers");
    size_t i = 0;
    JSON_EACH(it, f, arr) {
        if (str_eq(json_str(f), name)) {
            json_remove_idx(arr, i);
            if (!json_len(arr)) {
                json_del(meta, "finalizers");
            }
            return true;
        }
        i++;
    }
    return false;
}

struct json *kube_controller_of(const struct json *obj) {
    JSON_EACH(it, o, json_at(obj, "metadata", "ownerReferences")) {
        if (json_bool(json_get(o, "controller"), false)) {
            return o;
        }
    }
    return NULL;
}
bool kube_is_owned_by(const struct json *obj, const char *uid) {
    JSON_EACH(it, o, json_at(obj, "metadata", "ownerReferences")) {
        if (str_eq(json_str(json_get(o, "uid")), uid)) {
            return true;
        }
    }
    return false;
}
void kube_owner_add(struct json_doc *d, struct json *obj, const struct json *owner,
                    bool controller) {
    if (kube_is_owned_by(obj, kube_uid(owner))) {
        return;
    }
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "apiVersion", json_str_or(json_get(owner, "apiVersion"), ""));
    json_set_str(d, o, "kind", json_str_or(json_get(owner, "kind"), ""));
    json_set_str(d, o, "name", kube_name(owner));
    json_set_str(d, o, "uid", kube_uid(owner));
    if (controller) {
        json_set_bool(d, o, "controller", true);
        json_set_bool(d, o, "blockOwnerDeletion", true);
    }
    json_push(json_need_arr(d, json_need_obj(d, obj, "metadata"), "ownerReferences"), o);
}

struct json *kube_condition(const struct json *obj, const char *type) {
    JSON_EACH(it, c, json_at(obj, "status", "conditions")) {
        if (str_eq(json_str(json_get(c, "type")), type)) {
            return c;
        }
    }
    return NULL;
}
bool kube_condition_is(const struct json *obj, const char *type, const char *status) {
    return str_eq(json_str(json_get(kube_condition(obj, type), "status")), status);
}
bool kube_condition_set(struct json_doc *d, struct json *obj, const char *type, const char *status,
                        const char *reason, const char *message, const char *time) {
    struct json *c = kube_condition(obj, type);
    if (!c) {
        c = json_new_obj(d);
        json_set_str(d, c, "type", type);
        json_push(json_need_arr(d, json_need_obj(d, obj, "status"), "conditions"), c);
    }
    bool moved = !str_eq(json_str(json_get(c, "status")), status);
    if (!moved && str_eq(json_str_or(json_get(c, "reason"), ""), reason ? reason : "") &&
        str_eq(json_str_or(json_get(c, "message"), ""), message ? message : "")) {
        return false;
    }
    json_set_str(d, c, "status", status);
    if (moved) {
        json_set_str(d, c, "lastTransitionTime", time);
    }
    json_set_str(d, c, "reason", reason);
    json_set_str(d, c, "message", message ? message : "");
    return true;
}

struct json *kube_object_new(struct json_doc *d, const char *api_version, const char *kind,
                             const char *ns, const char *name) {
    struct json *o = json_new_obj(d);
    json_set_str(d, o, "apiVersion", api_version);
    json_set_str(d, o, "kind", kind);
    struct json *meta = json_set_obj(d, o, "metadata");
    json_set_str(d, meta, "name", name);
    if (ns && *ns) {
        json_set_str(d, meta, "namespace", ns);
    }
    if (!json_root(d)) {
        json_set_root(d, o);
    }
    return o;
}
