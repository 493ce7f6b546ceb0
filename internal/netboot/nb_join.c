/* The HTTPS side: boot documents and joining.
 *
 *   POST /v1/boot {mac, uuid, nonce}  → the boot document, with a ticket when the node belongs to a tenant
 *   POST /v1/join {ticket, csr}       → {cert, ca}: a bootstrap client certificate of ten minutes
 *
 * A ticket is given only to the address that is leased to that MAC, after that machine fetched its boot script within the
 * boot window; it holds for that address, ten minutes, and for one key: whoever else shows it later is refused. Only its
 * hash is kept. This proves "the machine that just booted there", not more: on a network where others can take a MAC
 * address over, so can its place here (docs/netboot.md). */
#include "internal/netboot/nb_int.h"

#include "internal/base/rand.h"
#include "internal/hash/hash.h"
#include "internal/http/http.h"
#include "internal/json/json.h"
#include "internal/keyclient/keyclient.h"
#include "internal/log/log.h"

#include <stdlib.h>

enum {
    LIM_BODY = 32 << 10,
    LIM_DOCUMENT = 1 << 20,
    TICKET_BYTES = 32,
    TICKET_S = 600,
    LIM_TICKET_TRIES = 8
};

static void refuse(struct http_req *r, unsigned status, const char *why) {
    AUTO(buf) struct buf b = BUF_INIT(512);
    buf_str(&b, "{\"error\":");
    json_write_str(&b, span_str(why));
    buf_str(&b, "}");
    http_respond(r, status, "application/json", NULL, 0, buf_view(&b));
}

/* A refusal that an operator should see. */
static void refuse_loud(struct netboot *nb, struct http_req *r, const char *why) {
    char ip[IP4_STR];
    ip4_format(nb_http_peer(r), ip);
    nb->count.tickets_refused++;
    LOG_WARN("netboot", "boot request refused", F_STR("from", ip), F_STR("why", why));
    refuse(r, 403, why);
}

/* ---- /v1/boot ---- */

static void make_ticket(struct netboot *nb, struct nb_machine *m, uint32_t peer,
                        struct buf *ret_text) {
    uint8_t secret[TICKET_BYTES];
    rand_bytes(secret, sizeof(secret));
    b64url_encode(ret_text, span_of(secret, sizeof(secret)));
    hash_sha256(buf_view(ret_text), m->ticket);
    secret_wipe(secret, sizeof(secret));
    m->ticket_until_ns = loop_now(nb->l) + TICKET_S * NS_PER_S;
    m->ticket_ip = peer;
    m->ticket_tries = 0;
    m->has_key = false;
    nb->count.tickets_issued++;
}

static void put_document(struct netboot *nb, struct http_req *r, const struct nb_node *n,
                         struct nb_machine *m) {
    AUTO(json_docp) struct json_doc *d = NULL;
    AUTO(buf) struct buf text = BUF_INIT(LIM_DOCUMENT), ticket = BUF_INIT(64);
    char ip[IP4_STR], name[NB_NODE_NAME];
    struct err e = ERR_INIT;
    if (n->tenant && !n->document) { /* known, but its API server or CA is not there yet */
        refuse(r, 503, "the tenant is not ready yet");
        return;
    }
    if (json_parse(span_str(n->document ? n->document : "{}"), 0, &d, &e) < 0) {
        refuse(r, 500, "the declared document is damaged");
        return;
    }
    struct json *o = json_root(d);
    ip4_format(nb_http_local(nb, r), ip);
    nb_node_name(n, m->hw, name);
    json_set_str(d, o, "hostname", name);
    if (n->image && n->image->root) {
        struct json *im = json_need_obj(d, o, "image");
        json_set(d, im, "url",
                 json_new_fmt(d, "http://%s:%u/images/%s", ip, nb->o.http_port, n->image->root));
        json_set_str(d, im, "name", n->image->name);
        json_set_str(d, im, "digest", n->image->root_digest);
        json_set_i64(d, im, "size", (int64_t)n->image->root_size);
    }
    if (n->tenant) {
        struct json *t = json_need_obj(d, o, "tenant");
        json_set_str(d, t, "name", n->tenant);
        json_set_str(d, t, "namespace", n->tenant_ns);
        make_ticket(nb, m, nb_http_peer(r), &ticket);
        json_set_str(d, o, "ticket", buf_cstr(&ticket));
    }
    json_write(o, 0, &text);
    secret_wipe(ticket.p, ticket.n);
    if (buf_ok(&text) < 0) {
        refuse(r, 500, "the declared document is too large");
        return;
    }
    static const struct http_header fresh[] = {{SPAN_LIT("cache-control"), SPAN_LIT("no-store")}};
    http_respond(r, 200, "application/json", fresh, ARRAY_LEN(fresh), buf_view(&text));
    secret_wipe(text.p, text.n);
    LOG_INFO("netboot", "boot document", F_STR("node", name),
             F_STR("tenant", n->tenant ? n->tenant : ""));
}

static void on_boot(struct netboot *nb, struct http_req *r, const struct json *body) {
    struct dhcp_hw hw, peer;
    uint32_t ip = nb_http_peer(r);
    if (dhcp_hw_parse(json_span(json_get(body, "mac")), &hw) < 0) {
        refuse(r, 400, "mac: not a MAC address");
        return;
    }
    if (!nb_peer_hw(nb, ip, &peer) || !dhcp_hw_eq(peer, hw)) {
        refuse_loud(nb, r, "the asking address is not leased to this MAC");
        return;
    }
    const struct nb_node *n = nb_target(nb, nb_plan_network_of(nb->plan, ip), hw);
    struct nb_machine *m = nb_machine_find(nb, hw);
    const struct nb_network *net = nb_plan_network_of(nb->plan, ip);
    if (!n) {
        refuse(r, 404, "not declared");
    } else if (net && net->needs_approval && !nb_plan_is_approved(nb->plan, n, hw)) {
        if (nb->on_waiting) {
            nb->on_waiting(nb->on_boot_ctx, hw);
        }
        refuse(r, 503, "waits for approval: set spec.approved of its Host");
    } else if (!m || !m->script_ns ||
               loop_now(nb->l) - m->script_ns > NB_BOOT_WINDOW_S * NS_PER_S) {
        refuse_loud(nb, r, "this machine did not fetch its boot script within the boot window");
    } else {
        put_document(nb, r, n, m);
    }
}

/* ---- /v1/join ---- */

/* A join on its way to keyd; the request may end before keyd answers. */
struct join {
    struct netboot *nb;
    struct http_req *r; /* NULL: gone */
    char name[NB_NODE_NAME];
};

static void join_closed(struct http_req *r, bool complete, void *ctx) {
    (void)r;
    (void)complete;
    struct join *j = ctx;
    j->r = NULL;
    if (!j->nb) {
        free(j);
    }
}

static void issued(void *ctx, int rc, struct key_identity *id, const struct err *e) {
    struct join *j = ctx;
    if (rc < 0) {
        LOG_ERROR("netboot", "no bootstrap certificate", F_STR("node", j->name), F_ERR(e));
    } else {
        j->nb->count.tickets_used++;
        LOG_INFO("netboot", "joined", F_STR("node", j->name));
    }
    j->nb = NULL;
    if (!j->r) {
        free(j);
    } else if (rc < 0) {
        refuse(j->r, err_http((enum err_code) - rc), "the certificate could not be made");
    } else {
        AUTO(buf) struct buf b = BUF_INIT(LIM_BODY * 4);
        buf_str(&b, "{\"cert\":");
        json_write_str(&b, buf_view(&id->cert_pem));
        buf_str(&b, ",\"ca\":");
        json_write_str(&b, buf_view(&id->ca_pem));
        buf_str(&b, "}");
        http_respond(j->r, 200, "application/json", NULL, 0, buf_view(&b));
    }
}

/* The ticket's machine, when the ticket is right: at this address, in time, and for no other key than before. */
static struct nb_machine *check_ticket(struct netboot *nb, uint32_t ip, struct span ticket,
                                       struct span csr, const char **ret_why) {
    uint8_t given[HASH_SHA256], key[HASH_SHA256];
    struct dhcp_hw hw;
    struct nb_machine *m = nb_peer_hw(nb, ip, &hw) ? nb_machine_find(nb, hw) : NULL;
    if (!m || !m->ticket_until_ns || m->ticket_ip != ip) {
        *ret_why = "no ticket was given to this address";
        return NULL;
    }
    if (loop_now(nb->l) >= m->ticket_until_ns || m->ticket_tries >= LIM_TICKET_TRIES) {
        *ret_why = "the ticket is no longer valid";
        return NULL;
    }
    m->ticket_tries++;
    hash_sha256(ticket, given);
    hash_sha256(csr, key);
    if (!ct_eq(given, m->ticket, sizeof(given))) {
        *ret_why = "wrong ticket";
        return NULL;
    }
    if (m->has_key && !ct_eq(key, m->key, sizeof(key))) {
        *ret_why = "the ticket was used already, with another key";
        return NULL;
    }
    memcpy(m->key, key, sizeof(key));
    m->has_key = true;
    m->script_ns = 0; /* the boot window closes: the next document needs the next boot */
    return m;
}

static void on_join(struct netboot *nb, struct http_req *r, const struct json *body) {
    const char *why = NULL;
    struct span csr = json_span(json_get(body, "csr"));
    uint32_t ip = nb_http_peer(r);
    struct nb_machine *m = check_ticket(nb, ip, json_span(json_get(body, "ticket")), csr, &why);
    const struct nb_node *n = m ? nb_target(nb, nb_plan_network_of(nb->plan, ip), m->hw) : NULL;
    if (!m) {
        refuse_loud(nb, r, why);
        return;
    }
    if (!n || !n->tenant_uid) {
        refuse_loud(nb, r, "this machine belongs to no tenant (any more)");
        return;
    }
    if (!nb->o.keys) {
        refuse(r, 503, "this server has no keys: it was not started by kfarm server");
        return;
    }
    char name[NB_NODE_NAME];
    nb_node_name(n, m->hw, name);
    AUTO_FREE char *cn = str_fmt("system:bootstrap:%s", name);
    const struct key_req rq = {
        .scope = n->tenant_uid, .profile = KEY_BOOTSTRAP_NODE, .cn = cn, .csr_pem = csr};
    struct join *j = new_zero(struct join);
    j->nb = nb;
    j->r = r;
    memcpy(j->name, name, sizeof(j->name));
    http_req_on_close(r, join_closed, j);
    keyclient_issue(nb->o.keys, &rq, issued, j);
}

/* ---- requests ---- */

static void on_body(struct http_req *r, int rc, struct span body, void *ctx) {
    struct netboot *nb = ctx;
    AUTO(json_docp) struct json_doc *d = NULL;
    struct err e = ERR_INIT;
    if (rc < 0) {
        if (rc == -ERR_LIMIT) {
            refuse(r, 413, "request too large");
        }
        return;
    }
    if (json_parse(body, 0, &d, &e) < 0 || !json_is_obj(json_root(d))) {
        refuse(r, 400, "not a JSON object");
        return;
    }
    if (span_eq_str(http_req_path(r), "/v1/boot")) {
        on_boot(nb, r, json_root(d));
    } else {
        on_join(nb, r, json_root(d));
    }
}

void nb_join_request(struct http_req *r, void *ctx) {
    struct span path = http_req_path(r);
    if (!span_eq_str(path, "/v1/boot") && !span_eq_str(path, "/v1/join")) {
        refuse(r, 404, "no such path");
    } else if (!span_eq_str(http_req_method(r), "POST")) {
        refuse(r, 405, "POST only");
    } else {
        http_req_read_body(r, LIM_BODY, on_body, ctx);
    }
}
