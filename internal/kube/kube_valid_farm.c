#include "internal/kube/kube.h"

#include "internal/kube/kube_valid_int.h"

/* kfarm's own kinds. Their rows carry the checks (required, rule=…), walked here; what compares fields follows. */

static void rule_range(struct val *v, const char *child, const struct json *x, struct span range) {
    struct span lo, hi = range;
    uint64_t a, b;
    CHECK(span_until(&hi, '.', &lo) == 0 && span_skip(&hi, 1) == 0);
    CHECK(span_to_u64(lo, 0, INT64_MAX, &a) == 0 && span_to_u64(hi, 0, INT64_MAX, &b) == 0);
    int64_t n = json_i64(x, INT64_MIN);
    if (n < (int64_t)a || n > (int64_t)b) {
        v_err(v, KUBE_INVALID, child, x, "must be between %llu and %llu, inclusive",
              (unsigned long long)a, (unsigned long long)b);
    }
}

static bool is_mac(struct span s) {
    if (s.n != 17) {
        return false;
    }
    for (size_t i = 0; i < 17; i++) {
        uint8_t c = s.p[i];
        bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (i % 3 == 2 ? c != ':' && c != '-' : !hex) {
            return false;
        }
    }
    return true;
}

static void rule(struct val *v, const char *child, const struct json *x, const char *r) {
    struct span s = json_span(x);
    if (strncmp(r, "range:", 6) == 0) {
        rule_range(v, child, x, span_str(r + 6));
        return;
    }
    if (!s.n) { /* empty is absent; required fields are checked apart */
        return;
    }
    if (strncmp(r, "enum:", 5) == 0) {
        if (!v_in_list(json_str(x), r + 5)) {
            v_unsupported(v, child, x, r + 5);
        }
    } else if (str_eq(r, "ip")) {
        v_ip(v, child, x);
    } else if (str_eq(r, "cidr")) {
        v_cidr(v, child, x);
    } else if (str_eq(r, "mac")) {
        if (!is_mac(s)) {
            v_err(v, KUBE_INVALID, child, x,
                  "must be a hardware address, (e.g. 52:54:00:12:34:56)");
        }
    } else if (str_eq(r, "label")) {
        v_name(v, child, x, NAME_LABEL);
    } else if (str_eq(r, "subdomain")) {
        v_name(v, child, x, NAME_SUBDOMAIN);
    } else if (str_eq(r, "host")) {
        if (!v_is_ip(s)) {
            v_name(v, child, x, NAME_SUBDOMAIN);
        }
    } else {
        check_failed("unknown rule in kfarm.txt", __FILE__, __LINE__);
    }
}

static void walk(struct val *v, const struct json *o, const struct kube_type *t);

static void list(struct val *v, const char *key, const struct json *x, const struct kube_field *f) {
    size_t i = 0;
    JSON_EACH(it, e, x) {
        size_t at = v_in_at(v, key, i), k = 0;
        if (f->base == KB_OBJECT) {
            walk(v, e, kube_field_type(f));
        } else if (f->rule) {
            rule(v, NULL, e, kube_str(f->rule));
        }
        JSON_EACH(it2, other, x) {
            if (k++ == i) {
                break;
            }
            const char *mk = f->list == KL_MAP ? kube_str(f->keys) : NULL;
            const struct json *a = mk ? json_get(e, mk) : e, *b = mk ? json_get(other, mk) : other;
            if ((mk || f->list == KL_SET) && a && b && json_eq(a, b)) {
                v_dup(v, mk, a);
                break;
            }
        }
        v_out(v, at);
        i++;
    }
}

static void walk(struct val *v, const struct json *o, const struct kube_type *t) {
    const struct kube_field *f = kube_fields(t);
    for (size_t i = 0; i < t->n; i++) {
        const char *key = kube_str(f[i].name);
        const struct json *x = json_get(o, key);
        bool empty = json_is_null(x) || (json_is_str(x) && !json_span(x).n);
        if ((f[i].flags & KF_REQUIRED) && empty) {
            v_required(v, key, NULL);
        } else if (!x) {
            continue;
        } else if (f[i].shape == KS_LIST) {
            list(v, key, x, &f[i]);
        } else if (f[i].shape == KS_ONE && f[i].base == KB_OBJECT) {
            size_t at = v_in(v, key);
            walk(v, x, kube_field_type(&f[i]));
            v_out(v, at);
        } else if (f[i].rule) {
            rule(v, key, x, kube_str(f[i].rule));
        }
    }
}

/* ---- what compares fields ----------------------------------------------------------------------------- */

static void each_label(struct val *v, const struct json *spec) {
    size_t i = 0;
    JSON_EACH(it, t, json_get(spec, "tags")) {
        size_t at = v_in_at(v, "tags", i++), k = 0;
        v_labels(v, "labels", json_get(t, "labels"));
        v_taints(v, "taints", json_get(t, "taints"));
        JSON_EACH(it2, o, json_get(t, "dhcpOptions")) {
            AUTO_FREE char *c = str_fmt("dhcpOptions[%zu]", k++);
            if (!json_get(o, "code") == !json_span(json_get(o, "name")).n) {
                v_required(v, c, "exactly one of code or name is required");
            }
        }
        k = 0;
        JSON_EACH(it3, f, json_get(t, "files")) {
            AUTO_FREE char *c = str_fmt("files[%zu].path", k++);
            const char *path = json_str_or(json_get(f, "path"), "");
            if (*path && path[0] != '/') {
                v_err_str(v, KUBE_INVALID, c, path, "must be an absolute path");
            } else if (strstr(path, "..")) {
                v_err_str(v, KUBE_INVALID, c, path, "must not contain '..'");
            }
        }
        v_out(v, at);
    }
}

static bool has_tag(const struct json *spec, const struct json *name) {
    JSON_EACH(it, t, json_get(spec, "tags")) {
        if (json_get(t, "name") && json_eq(json_get(t, "name"), name)) {
            return true;
        }
    }
    return false;
}

static void tag_names(struct val *v, const struct json *spec, const struct json *o) {
    size_t i = 0;
    JSON_EACH(it, t, json_get(o, "tags")) {
        AUTO_FREE char *c = str_fmt("tags[%zu]", i++);
        if (!has_tag(spec, t)) {
            v_err(v, KUBE_NOT_FOUND, c, t, "%s", "");
        }
    }
}

/* A machine is declared once: names and hardware addresses are unique over all pools. */
static void node_unique(struct val *v, const struct json *spec, const struct json *node) {
    JSON_EACH(it, p, json_get(spec, "pools")) {
        JSON_EACH(it2, n, json_get(p, "nodes")) {
            if (n == node) {
                return;
            }
            if (json_get(n, "name") && json_get(node, "name") &&
                json_eq(json_get(n, "name"), json_get(node, "name"))) {
                v_dup(v, "name", json_get(node, "name"));
            }
            size_t i = 0;
            JSON_EACH(it3, m, json_get(node, "macs")) {
                AUTO_FREE char *c = str_fmt("macs[%zu]", i++);
                JSON_EACH(it4, o, json_get(n, "macs")) {
                    if (span_eq_nocase(json_span(m), json_str_or(o, ""))) {
                        v_dup(v, c, m);
                    }
                }
            }
            if (json_span(json_get(n, "ip")).n && json_get(node, "ip") &&
                json_eq(json_get(n, "ip"), json_get(node, "ip"))) {
                v_dup(v, "ip", json_get(node, "ip"));
            }
        }
    }
}

static void tenant(struct val *v, const struct json *spec, const struct json *old) {
    size_t i = 0;
    const struct json *ds = json_get(spec, "datastore");
    each_label(v, spec);
    JSON_EACH(it, p, json_get(spec, "pools")) {
        size_t at = v_in_at(v, "pools", i++), k = 0;
        tag_names(v, spec, p);
        JSON_EACH(it2, n, json_get(p, "nodes")) {
            size_t at2 = v_in_at(v, "nodes", k++);
            if (!json_len(json_get(n, "macs")) && !json_span(json_get(n, "uuid")).n) {
                v_required(v, "macs", "a node is identified by macs or uuid");
            }
            tag_names(v, spec, n);
            node_unique(v, spec, n);
            v_out(v, at2);
        }
        v_out(v, at);
    }
    if (str_eq(json_str(json_get(ds, "type")), "etcd") && !json_len(json_get(ds, "endpoints"))) {
        v_required(v, "datastore.endpoints", "needed for type etcd");
    }
    if (!old) {
        return;
    }
    static const char *const ranges[] = {"podCIDR", "serviceCIDR", "dnsDomain"};
    size_t at = v_in(v, "network");
    for (size_t k = 0; k < ARRAY_LEN(ranges); k++) {
        v_immutable(v, ranges[k], json_at(spec, "network", ranges[k]),
                    json_at(old, "network", ranges[k]));
    }
    v_out(v, at);
    v_immutable(v, "datastore.type", json_get(ds, "type"), json_at(old, "datastore", "type"));
    v_immutable(v, "datastore.prefix", json_get(ds, "prefix"), json_at(old, "datastore", "prefix"));
    v_immutable(v, "runtime", json_get(spec, "runtime"), json_get(old, "runtime"));
}

static void network(struct val *v, const struct json *spec) {
    size_t i = 0;
    JSON_EACH(it, o, json_get(spec, "options")) {
        AUTO_FREE char *c = str_fmt("options[%zu]", i++);
        if (!json_get(o, "code") == !json_span(json_get(o, "name")).n) {
            v_required(v, c, "exactly one of code or name is required");
        }
    }
}

bool v_farm(struct val *v, const struct json *obj, const struct json *old) {
    unsigned hook = v->r->type ? v->r->type->hook : KH_NONE;
    if (hook < KH_TENANT) {
        return false;
    }
    const struct kube_field *f = kube_field_find(v->r->type, SPAN_LIT("spec"));
    const struct json *spec = json_get(obj, "spec"), *os = old ? json_get(old, "spec") : NULL;
    size_t at = v_in(v, "spec");
    walk(v, spec, kube_field_type(f));
    if (hook == KH_TENANT) {
        tenant(v, spec, os);
    } else if (hook == KH_NETWORK) {
        network(v, spec);
    } else if (hook == KH_MACHINE && os) {
        v_immutable(v, "clusterName", json_get(spec, "clusterName"), json_get(os, "clusterName"));
    }
    v_out(v, at);
    return true;
}
