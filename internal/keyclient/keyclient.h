/* keyclient — how roles ask keyd for certificates and tokens, over the ipc channel that the supervisor gave them.
 *
 * What:     certificates by profile, service-account tokens, CA bundles, scopes (one per cluster) made and removed.
 * Owns:     a keyclient owns its channel. Private keys of leaves are made here, in the asking process, and never travel.
 * Limits:   LIM_IPC_MSG a message.
 * Restart:  calls under way when keyd dies are sent to its successor (see ipc); all of them may be carried out twice.
 * Errors:   FORBIDDEN (the channel's grant does not cover it), NOT_FOUND (scope), INVALID (CSR, names), UNAVAILABLE.
 * Threads:  the loop's; the _sync forms block and are for start-up only.
 * Protocol: request and reply bodies are JSON objects; types below. A scope is "admin" or a Tenant's uid.
 */
#ifndef KF_KEYCLIENT_H
#define KF_KEYCLIENT_H

#include "internal/ipc/ipc.h"
#include "internal/json/json.h"

enum keyd_msg {
    KEYD_GRANT = 1, /* supervisor → keyd, with the fd of a new channel: {"scope","profiles":[],"names":[],"token","manage"} */
    KEYD_GRANT_AGAIN, /* the same for a channel of a keyd that died: what that one had not answered is asked again */
    KEYD_CREATE,    /* {"scope"} → {}: CA and service-account key made when missing (idempotent) */
    KEYD_DELETE,    /* {"scope"} → {} */
    KEYD_BUNDLE,    /* {"scope"} → {"ca":PEM,"bootCA":PEM (admin only),"saPublicKeys":[PEM…]} */
    KEYD_ISSUE,     /* {"scope","profile","cn","orgs":[],"sans":[],"csr","ttlSeconds"} → {"cert":PEM,"ca":PEM} */
    KEYD_TOKEN,     /* {"scope","claims":{…}} → {"token"} */
};

/* Profiles: who may be certified as what (the table is in keyd). */
#define KEY_APISERVER "apiserver"           /* server; SANs free */
#define KEY_KUBELET_CLIENT "kubelet-client" /* kube-apiserver-kubelet-client */
#define KEY_ADMIN "admin"                   /* kubernetes-admin, system:masters */
#define KEY_COMPONENT "component"           /* client; CN must be one of the grant's names */
#define KEY_CSR "csr"                       /* an approved CertificateSigningRequest, subject from the CSR */
#define KEY_BOOTSTRAP_NODE "bootstrap-node" /* system:bootstrap:<node>, ten minutes */
#define KEY_BOOT "boot"                     /* server certificate of the boot service, from the boot CA */

struct keyclient;
NODISCARD int keyclient_new(struct loop *l, int own_fd, struct keyclient **ret, struct err *e);
void keyclient_free(struct keyclient *k);

struct key_req {
    const char *scope, *profile, *cn; /* cn NULL: the profile's */
    const char *orgs[8];
    size_t n_orgs;
    const char *sans[64];
    size_t n_sans;
    struct span csr_pem; /* empty: an identity is asked for, the key is made here */
    uint64_t ttl_s;      /* 0: the profile's */
    bool server_usage, client_usage; /* KEY_CSR only */
};
struct key_identity {
    struct buf cert_pem, key_pem, ca_pem; /* key_pem is empty when the request carried a CSR */
};
void key_identity_init(struct key_identity *i);
void key_identity_fini(struct key_identity *i); /* wipes the key */

/* done is called once; id is borrowed (contents may be stolen with buf_take). */
typedef void key_identity_cb(void *ctx, int rc, struct key_identity *id, const struct err *e);
void keyclient_issue(struct keyclient *k, const struct key_req *r, key_identity_cb *done, void *ctx);
typedef void key_json_cb(void *ctx, int rc, struct json *reply, const struct err *e);
void keyclient_token(struct keyclient *k, const char *scope, const struct json *claims, key_json_cb *done, void *ctx);
void keyclient_bundle(struct keyclient *k, const char *scope, key_json_cb *done, void *ctx);
void keyclient_create(struct keyclient *k, const char *scope, key_json_cb *done, void *ctx);
void keyclient_delete(struct keyclient *k, const char *scope, key_json_cb *done, void *ctx);

/* Start-up, on the raw channel before keyclient_new takes it. */
NODISCARD int key_issue_sync(int fd, const struct key_req *r, struct key_identity *ret, struct err *e);
NODISCARD int key_call_sync(int fd, enum keyd_msg type, const struct json *req, struct json_doc **ret, struct err *e);
NODISCARD int key_bundle_sync(int fd, const char *scope, struct json_doc **ret, struct err *e);

#endif
