/* ConfigMaps, Secrets and service-account tokens that a pod refers to, fetched before its containers start and again
 * while it runs. */
#include "internal/kubelet/kl_int.h"

#include "internal/base/rand.h"
#include "internal/kube/kube.h"

#include <stdlib.h>

enum { LIM_REFS = 256 };

struct fetch {
    struct kl_pod *p;
    char *key;
    bool is_optional;
};

static void ref_free(struct kl_ref *r) {
    json_doc_free(r->doc);
    free(r);
}

void kl_refs_free(struct kl_pod *p) {
    struct map_iter it = {0};
    for (struct map_entry *e; map_next(&p->refs, &it, &e);) {
        ref_free(e->value);
    }
    map_fini(&p->refs);
}

const struct json *kl_ref_get(const struct kl_pod *p, const char *kind, const char *name) {
    char key[600];
    if (str_put(key, sizeof(key), "%s/%s", kind, name) < 0) {
        return NULL;
    }
    const struct kl_ref *r = map_get_str(&p->refs, key);
    return r ? r->obj : NULL;
}

static void on_fetched(void *ctx, int rc, struct json *obj, const struct err *e) {
    struct fetch *f = ctx;
    struct kl_pod *p = f->p;
    if (rc == 0 || (rc == -ERR_NOT_FOUND && f->is_optional)) {
        struct kl_ref *r = new_zero(struct kl_ref), *old;
        r->at_ns = loop_now(p->k->l);
        if (rc == 0 && obj) {
            r->doc = json_doc_new();
            r->obj = json_copy(r->doc, obj);
        }
        old = map_put_str(&p->refs, f->key, r);
        if (old) {
            ref_free(old);
        }
    } else {
        p->refs_failed = true;
        IGNORE_ERR(str_put(p->refs_error, sizeof(p->refs_error), "%s: %s", f->key, e->msg),
                   "a key and a message fit");
    }
    free(f->key);
    free(f);
    if (--p->refs_pending == 0) {
        p->refs_at_ns = p->refs_failed ? 0 : loop_now(p->k->l);
        kl_sync_soon(p);
    }
}

static struct fetch *fetch_new(struct kl_pod *p, const char *kind, const char *name,
                               bool is_optional) {
    struct fetch *f = new_zero(struct fetch);
    f->p = p;
    f->key = str_fmt("%s/%s", kind, name);
    f->is_optional = is_optional;
    p->refs_pending++;
    return f;
}

/* Names seen in this round, so that nothing is fetched twice. */
struct round {
    struct kl_pod *p;
    struct map seen;
};

static void want(struct round *r, const char *kind, const struct json *ref, const char *name_key,
                 bool force_optional) {
    const char *name = json_str_at(ref, name_key);
    char key[600];
    if (!name || !*name || str_put(key, sizeof(key), "%s/%s", kind, name) < 0 ||
        map_get_str(&r->seen, key) || r->seen.n >= LIM_REFS) {
        return;
    }
    map_put_str(&r->seen, key, r);
    bool is_optional = force_optional || json_bool_at(ref, false, "optional");
    const struct kref k = {
        .group = "", .version = "v1", .resource = kind, .ns = r->p->ns, .name = name};
    kget(r->p->k->c, &k, on_fetched, fetch_new(r->p, kind, name, is_optional));
}

static void want_env(struct round *r, const struct json *containers) {
    JSON_EACH(it, c, containers) {
        JSON_EACH(from, f, json_get(c, "envFrom")) {
            want(r, "configmaps", json_get(f, "configMapRef"), "name", false);
            want(r, "secrets", json_get(f, "secretRef"), "name", false);
        }
        JSON_EACH(env, v, json_get(c, "env")) {
            want(r, "configmaps", json_at(v, "valueFrom", "configMapKeyRef"), "name", false);
            want(r, "secrets", json_at(v, "valueFrom", "secretKeyRef"), "name", false);
        }
    }
}

/* Tokens are replaced when four fifths of their life are over, as upstream's kubelet does. */
static bool is_fresh(const struct kl_pod *p, const char *volume_path) {
    char key[420];
    if (str_put(key, sizeof(key), "tokens/%s", volume_path) < 0) {
        return false;
    }
    const struct kl_ref *ref = map_get_str(&p->refs, key);
    int64_t life = ref ? json_i64_at(ref->obj, 0, "spec", "expirationSeconds") : 0;
    return life > 0 && loop_now(p->k->l) - ref->at_ns < (uint64_t)life * NS_PER_S / 5 * 4;
}

static void want_token(struct round *r, const char *volume, const struct json *src) {
    struct kl_pod *p = r->p;
    AUTO(json_docp) struct json_doc *d = json_doc_new();
    char key[400];
    const char *path = json_str_or(json_get(src, "path"), "token"),
               *audience = json_str_at(src, "audience");
    const char *sa = json_str_or(json_at(p->obj, "spec", "serviceAccountName"), "default");
    struct json *o = json_new_obj(d), *spec, *bound;
    json_set_str(d, o, "apiVersion", "authentication.k8s.io/v1");
    json_set_str(d, o, "kind", "TokenRequest");
    spec = json_set_obj(d, o, "spec");
    struct json *auds = json_set_arr(d, spec, "audiences");
    if (audience && *audience) {
        json_push_str(d, auds, audience);
    }
    json_set_i64(d, spec, "expirationSeconds", json_i64_at(src, 3600, "expirationSeconds"));
    bound = json_set_obj(d, spec, "boundObjectRef");
    json_set_str(d, bound, "apiVersion", "v1");
    json_set_str(d, bound, "kind", "Pod");
    json_set_str(d, bound, "name", p->name);
    json_set_str(d, bound, "uid", p->uid);
    if (str_put(key, sizeof(key), "%s/%s", volume, path) < 0 || is_fresh(p, key)) {
        return;
    }
    const struct kref k = {.group = "",
                           .version = "v1",
                           .resource = "serviceaccounts",
                           .ns = p->ns,
                           .name = sa,
                           .subresource = "token"};
    kcreate(p->k->c, &k, o, on_fetched, fetch_new(p, "tokens", key, false));
}

static void want_volumes(struct round *r) {
    JSON_EACH(it, v, json_at(r->p->obj, "spec", "volumes")) {
        want(r, "configmaps", json_get(v, "configMap"), "name", false);
        want(r, "secrets", json_get(v, "secret"), "secretName", false);
        JSON_EACH(src, s, json_at(v, "projected", "sources")) {
            want(r, "configmaps", json_get(s, "configMap"), "name", false);
            want(r, "secrets", json_get(s, "secret"), "name", false);
            if (json_get(s, "serviceAccountToken")) {
                want_token(r, json_str_or(json_get(v, "name"), ""),
                           json_get(s, "serviceAccountToken"));
            }
        }
    }
}

bool kl_refs_wanted(const struct kl_pod *p) {
    const struct json *spec = json_get(p->obj, "spec");
    JSON_EACH(it, v, json_get(spec, "volumes")) {
        if (json_get(v, "configMap") || json_get(v, "secret") || json_get(v, "projected")) {
            return true;
        }
    }
    return false;
}

void kl_refs_fetch(struct kl_pod *p) {
    struct round r = {.p = p};
    const struct json *spec = json_get(p->obj, "spec");
    if (p->refs_pending > 0) {
        return;
    }
    p->refs_failed = false;
    p->refs_error[0] = 0;
    p->refs_pending = 1; /* held until everything has been asked for */
    want_env(&r, json_get(spec, "initContainers"));
    want_env(&r, json_get(spec, "containers"));
    want_volumes(&r);
    JSON_EACH(it, s, json_get(spec, "imagePullSecrets")) {
        want(&r, "secrets", s, "name", true);
    }
    map_fini(&r.seen);
    if (--p->refs_pending == 0) {
        p->refs_at_ns = loop_now(p->k->l);
        kl_sync_soon(p);
    }
}
