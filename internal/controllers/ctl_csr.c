/* Certificate requests: which ones are approved without a person, and when they are removed. */
#include "internal/controllers/ctl_csr_int.h"

#define GROUP "certificates.k8s.io"
#define NODE_PREFIX "system:node:"
#define BOOTSTRAP_PREFIX "system:bootstrap:"
/* Group of the certificates that a network-booted node gets for its one-time ticket: they name the node. */
#define KFARM_BOOTSTRAP_GROUP "system:bootstrappers:kfarm:default-node-token"

struct kinformer *csr_informer(struct controllers *c) {
    return kfactory_all(c->f, GROUP, "v1", "certificatesigningrequests");
}

bool csr_has(const struct json *csr, const char *condition) {
    return kube_condition(csr, condition) != NULL;
}

int csr_parse(const struct json *csr, struct buf *pem, struct pki_info *ret, struct err *e) {
    if (b64_decode(pem, json_span(json_at(csr, "spec", "request"))) < 0) {
        return err_set(e, ERR_INVALID, "spec.request is not base64");
    }
    return pki_csr_parse(buf_view(pem), ret, e);
}

/* Exactly the usages of a kubelet's or client's certificate; key encipherment (RSA) may be there. */
static bool has_usages(const struct json *csr, const char *purpose) {
    bool purpose_seen = false, signature_seen = false;
    JSON_EACH(it, u, json_at(csr, "spec", "usages")) {
        const char *s = json_str(u);
        if (str_eq(s, purpose)) {
            purpose_seen = true;
        } else if (str_eq(s, "digital signature")) {
            signature_seen = true;
        } else if (!str_eq(s, "key encipherment")) {
            return false;
        }
    }
    return purpose_seen && signature_seen;
}

static const char *node_subject_breaks(const struct pki_info *i) {
    const struct pki_subject *s = &i->subject;
    if (s->n_orgs != 1 || !str_eq(s->orgs[0], "system:nodes")) {
        return "organization in subject is not system:nodes";
    }
    if (!s->cn || !span_starts(span_str(s->cn), NODE_PREFIX)) {
        return "subject common name does not begin with system:node:";
    }
    return NULL;
}

const char *csr_breaks_rules(const struct json *csr, const struct pki_info *i) {
    const char *signer = json_str_or(json_at(csr, "spec", "signerName"), ""), *why;
    if (str_eq(signer, SIGNER_KUBELET_CLIENT)) {
        why = node_subject_breaks(i);
        return why                               ? why
               : i->subject.n_sans               ? "DNS, email, IP or URI names are not allowed"
               : !has_usages(csr, "client auth") ? "usages did not match the kubelet client's"
                                                 : NULL;
    }
    if (str_eq(signer, SIGNER_KUBELET_SERVING)) {
        why = node_subject_breaks(i);
        return why                               ? why
               : !i->subject.n_sans              ? "DNS or IP names are required"
               : !has_usages(csr, "server auth") ? "usages did not match the kubelet server's"
                                                 : NULL;
    }
    if (str_eq(signer, SIGNER_CLIENT)) {
        bool masters = false;
        for (size_t k = 0; k < i->subject.n_orgs; k++) {
            masters |= str_eq(i->subject.orgs[k], "system:masters");
        }
        return masters                           ? "organization system:masters is not allowed"
               : !has_usages(csr, "client auth") ? "usages did not match a client's"
                                                 : NULL;
    }
    return NULL;
}

/* ---- approving ---- */

struct approvectl {
    struct controllers *c;
    struct kinformer *csrs;
    struct kqueue *q;
};

static bool in_group(const struct json *csr, const char *group) {
    JSON_EACH(it, g, json_at(csr, "spec", "groups")) {
        if (str_eq(json_str(g), group)) {
            return true;
        }
    }
    return false;
}

static void approve(struct sync *s, struct approvectl *ctl, const struct json *csr,
                    const char *message) {
    char now[TIME_STR];
    struct json *copy = json_copy(s->d, csr);
    kube_condition_set(s->d, copy, "Approved", "True", "AutoApproved", message, ctl_now(now));
    json_set_str(s->d, kube_condition(copy, "Approved"), "lastUpdateTime", now);
    struct kref r = ctl_ref(GROUP, "v1", "certificatesigningrequests", csr, "approval");
    sync_update(s, ctl->csrs, &r, copy, NULL);
}

static void on_review(struct sync *s, int rc, struct json *obj, const struct err *e) {
    struct approvectl *ctl = *(struct approvectl **)s->data;
    const struct json *csr = kinformer_get(ctl->csrs, NULL, s->name);
    (void)e;
    if (rc == 0 && csr && json_bool_at(obj, false, "status", "allowed")) {
        approve(s, ctl, csr,
                "Auto approving kubelet client certificate after SubjectAccessReview.");
    }
}

/* The requester may have been given the right by an administrator's binding. */
static void review(struct sync *s, const struct json *csr, const char *subresource) {
    struct json *o = json_new_obj(s->d), *spec;
    json_set_str(s->d, o, "apiVersion", "authorization.k8s.io/v1");
    json_set_str(s->d, o, "kind", "SubjectAccessReview");
    spec = json_set_obj(s->d, o, "spec");
    static const char *const copied[][2] = {
        {"user", "username"}, {"uid", "uid"}, {"groups", "groups"}, {"extra", "extra"}};
    for (size_t i = 0; i < ARRAY_LEN(copied); i++) {
        const struct json *v = json_at(csr, "spec", copied[i][1]);
        if (!json_is_null(v)) {
            json_set(s->d, spec, copied[i][0], json_copy(s->d, v));
        }
    }
    struct json *a = json_set_obj(s->d, spec, "resourceAttributes");
    json_set_str(s->d, a, "group", GROUP);
    json_set_str(s->d, a, "version", "*");
    json_set_str(s->d, a, "resource", "certificatesigningrequests");
    json_set_str(s->d, a, "subresource", subresource);
    json_set_str(s->d, a, "verb", "create");
    struct kref r = {"authorization.k8s.io", "v1", "subjectaccessreviews", NULL, NULL, NULL};
    sync_create(s, NULL, &r, o, on_review);
}

static void judge_client(struct sync *s, struct approvectl *ctl, const struct json *csr,
                         const struct pki_info *i) {
    const char *user = json_str_or(json_at(csr, "spec", "username"), "");
    const char *node = i->subject.cn + strlen(NODE_PREFIX);
    if (in_group(csr, KFARM_BOOTSTRAP_GROUP)) {
        /* A ticket was given to one machine: it opens the door for that node only. */
        if (span_starts(span_str(user), BOOTSTRAP_PREFIX) &&
            str_eq(user + strlen(BOOTSTRAP_PREFIX), node)) {
            approve(s, ctl, csr, "Auto approving the certificate of a network-booted node.");
        }
    } else if (in_group(csr, "system:bootstrappers")) {
        approve(s, ctl, csr, "Auto approving the kubelet client certificate of a bootstrap token.");
    } else if (str_eq(user, i->subject.cn) && in_group(csr, "system:nodes")) {
        approve(s, ctl, csr, "Auto approving self kubelet client certificate.");
    } else {
        review(s, csr, str_eq(user, i->subject.cn) ? "selfnodeclient" : "nodeclient");
    }
}

/* A serving certificate names only addresses that the Node object has. */
static bool node_has_address(const struct json *node, const char *name) {
    if (str_eq(kube_name(node), name)) {
        return true;
    }
    JSON_EACH(it, a, json_at(node, "status", "addresses")) {
        if (str_eq(json_str(json_get(a, "address")), name)) {
            return true;
        }
    }
    return false;
}

static void judge_serving(struct sync *s, struct approvectl *ctl, const struct json *csr,
                          const struct pki_info *i) {
    const char *user = json_str_or(json_at(csr, "spec", "username"), "");
    if (!str_eq(user, i->subject.cn) || !in_group(csr, "system:nodes")) {
        return;
    }
    const struct json *node =
        kinformer_get(ctl->c->nodes, NULL, i->subject.cn + strlen(NODE_PREFIX));
    for (size_t k = 0; k < i->subject.n_sans; k++) {
        if (!node_has_address(node, i->subject.sans[k])) {
            s->failed = true; /* the node's status may come later */
            return;
        }
    }
    approve(s, ctl, csr, "Auto approving kubelet serving certificate.");
}

static void handle_approve(void *ctx, const char *key) {
    struct approvectl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    struct approvectl **data = new_zero(struct approvectl *);
    *data = ctl;
    s->data = data;
    const struct json *csr = kinformer_get(ctl->csrs, NULL, key);
    const char *signer = json_str_or(json_at(csr, "spec", "signerName"), "");
    bool client = str_eq(signer, SIGNER_KUBELET_CLIENT),
         serving = str_eq(signer, SIGNER_KUBELET_SERVING);
    if (csr && (client || serving) && !csr_has(csr, "Approved") && !csr_has(csr, "Denied") &&
        !csr_has(csr, "Failed")) {
        AUTO(buf) struct buf pem = BUF_INIT(1 << 20);
        struct pki_info i;
        struct err e = ERR_INIT;
        if (csr_parse(csr, &pem, &i, &e) == 0) {
            if (!csr_breaks_rules(csr, &i)) {
                (client ? judge_client : judge_serving)(s, ctl, csr, &i);
            }
            pki_info_fini(&i);
        }
    }
    sync_end(s);
}

static void on_csr(void *ctx, struct json *old, struct json *cur) {
    struct approvectl *ctl = ctx;
    if (cur && !old) {
        kqueue_add_obj(ctl->q, cur);
    }
}

void ctl_start_csr_approve(struct controllers *c) {
    struct approvectl *ctl = ctl_new(c, struct approvectl);
    ctl->c = c;
    ctl->csrs = csr_informer(c);
    ctl->q = ctl_queue(c, "csr-approve", 4, handle_approve, ctl);
    kinformer_listen(ctl->csrs, on_csr, ctl);
    kqueue_need(ctl->q, ctl->csrs);
    kqueue_need(ctl->q, c->nodes);
}

/* ---- cleaning ---- */

enum { DONE_S = 3600, PENDING_S = 86400 };

static void handle_clean(void *ctx, const char *key) {
    struct approvectl *ctl = ctx;
    struct sync *s = sync_begin(ctl->c, ctl->q, key);
    const struct json *csr = kinformer_get(ctl->csrs, NULL, key);
    bool settled = *json_str_or(json_at(csr, "status", "certificate"), "") ||
                   csr_has(csr, "Denied") || csr_has(csr, "Failed");
    uint64_t due = kobj_created_s(csr) + (settled ? DONE_S : PENDING_S), now = ctl_now_s();
    if (csr && due <= now) {
        struct kref r = ctl_ref(GROUP, "v1", "certificatesigningrequests", csr, NULL);
        sync_delete(s, ctl->csrs, &r, NULL, kube_uid(csr), NULL);
    } else if (csr) {
        kqueue_add_after(ctl->q, key, (due - now + 1) * NS_PER_S);
    }
    sync_end(s);
}

static void on_csr_clean(void *ctx, struct json *old, struct json *cur) {
    struct approvectl *ctl = ctx;
    (void)old;
    if (cur) {
        kqueue_add_obj(ctl->q, cur);
    }
}

void ctl_start_csr_clean(struct controllers *c) {
    struct approvectl *ctl = ctl_new(c, struct approvectl);
    ctl->c = c;
    ctl->csrs = csr_informer(c);
    ctl->q = ctl_queue(c, "csr-clean", 1, handle_clean, ctl);
    kinformer_listen(ctl->csrs, on_csr_clean, ctl);
    kqueue_need(ctl->q, ctl->csrs);
}
