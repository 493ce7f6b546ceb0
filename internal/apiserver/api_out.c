#include "internal/apiserver/api_int.h"
#include "internal/yaml/yaml.h"

/* Forms of objects: as they are, rows of a Table, PartialObjectMetadata; as JSON, YAML or protobuf. */

/* Upstream's YAML has its keys in order of their names. */
static struct json *sorted(struct json_doc *d, const struct json *v, unsigned depth) {
    if (json_is_arr(v) && depth < LIM_JSON_DEPTH) {
        struct json *out = json_new_arr(d);
        JSON_EACH(it, m, v) {
            json_push(out, sorted(d, m, depth + 1));
        }
        return out;
    }
    if (!json_is_obj(v) || depth >= LIM_JSON_DEPTH) {
        return json_copy(d, v);
    }
    struct json *out = json_new_obj(d);
    const char *last = NULL;
    for (size_t i = 0; i < json_len(v); i++) {
        const char *next = NULL;
        const struct json *member = NULL;
        JSON_EACH_KV(it, k, m, v) {
            if ((last == NULL || strcmp(k, last) > 0) && (next == NULL || strcmp(k, next) < 0)) {
                next = k;
                member = m;
            }
        }
        if (member != NULL) {
            json_set(d, out, next, sorted(d, member, depth + 1));
            last = next;
        }
    }
    return out;
}

int api_yaml(const struct json *v, struct buf *b) {
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    return yaml_write(sorted(d, v, 0), b);
}

struct json *api_partial(struct json_doc *d, const struct json *obj, const char *as_version) {
    struct json *p = json_new_obj(d);
    json_set_str(d, p, "kind", "PartialObjectMetadata");
    json_set(d, p, "apiVersion", json_new_fmt(d, "meta.k8s.io/%s", as_version));
    const struct json *meta = json_get(obj, "metadata");
    json_set(d, p, "metadata", meta != NULL ? json_copy(d, meta) : json_new_obj(d));
    return p;
}

struct json *api_table_row(const struct api_out *out, const struct kube_resource *want,
                           struct json_doc *d, struct json *obj) {
    struct json *row = json_new_obj(d);
    json_set(d, row, "cells", kube_table_cells(d, want, obj, clock_wall_ns() / NS_PER_S));
    if (out->include_none) {
        json_set(d, row, "object", json_new_null(d));
    } else if (out->include_object) {
        json_set(d, row, "object", json_copy(d, obj));
    } else {
        json_set(d, row, "object", api_partial(d, obj, out->as_version));
    }
    return row;
}

struct json *api_table_new(const struct api_out *out, const struct kube_resource *want,
                           struct json_doc *d, bool with_columns) {
    struct json *t = json_new_obj(d);
    json_set_str(d, t, "kind", "Table");
    json_set(d, t, "apiVersion", json_new_fmt(d, "meta.k8s.io/%s", out->as_version));
    json_set_obj(d, t, "metadata");
    json_set(d, t, "columnDefinitions",
             with_columns ? kube_table_columns(d, want) : json_new_null(d));
    json_set_arr(d, t, "rows");
    return t;
}

struct json *api_shape(const struct api_out *out, const struct kube_resource *want,
                       struct json_doc *d, struct json *obj, bool with_columns) {
    if (out->as == API_AS_META) {
        return api_partial(d, obj, out->as_version);
    }
    if (out->as == API_AS_TABLE) {
        struct json *t = api_table_new(out, want, d, with_columns);
        json_set_str(d, json_get(t, "metadata"), "resourceVersion",
                     kube_rv(obj)[0] != '\0' ? kube_rv(obj) : NULL);
        json_push(json_get(t, "rows"), api_table_row(out, want, d, obj));
        return t;
    }
    return obj;
}

int api_encode(const struct api_out *out, const struct kube_resource *stored,
               const struct kube_resource *want, const struct api_obj *o,
               const struct json_doc *doc, struct buf *b, struct err *e) {
    if (out->media == API_JSON && out->as == API_AS_OBJECT && !out->pretty && stored == want) {
        return buf_span(b, api_obj_json(o)) < 0 ? err_set(e, ERR_LIMIT, "the answer is too large")
                                                : 0;
    }
    AUTO(json_docp) struct json_doc *d = NULL;
    struct json *obj = NULL;
    if (doc != NULL) {
        d = json_doc_new();
        obj = json_copy(d, json_root(doc));
    } else {
        int rc = json_parse(api_obj_json(o), 0, &d, e);
        if (rc < 0) {
            return rc;
        }
        obj = json_root(d);
    }
    if (stored != want) {
        int rc = kube_convert(d, obj, stored, want, e);
        if (rc < 0) {
            return rc;
        }
    }
    struct json *v = api_shape(out, want, d, obj, !out->rows_only);
    if (out->media == API_PB) {
        return kube_pb_encode(v, b, e);
    }
    int rc =
        out->media == API_YAML ? api_yaml(v, b) : json_write(v, out->pretty ? JSON_PRETTY : 0, b);
    return rc < 0 ? err_set(e, ERR_LIMIT, "the answer is too large") : 0;
}
