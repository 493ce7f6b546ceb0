/* The JSON gateway: the same calls as HTTP/1.1 or HTTP/2 POST with JSON bodies. */
#include "internal/storesrv/srv_json.h"

#include "internal/json/json.h"

#include "internal/base/rand.h"

#include <stdlib.h>

/* message: what its request and response are called, without "Request" and "Response". */
static const struct route {
    const char *path, *method, *message;
} routes[] = {
    {"kv/range", "KV/Range", "Range"},
    {"kv/put", "KV/Put", "Put"},
    {"kv/deleterange", "KV/DeleteRange", "DeleteRange"},
    {"kv/txn", "KV/Txn", "Txn"},
    {"kv/compaction", "KV/Compact", "Compaction"},
    {"watch", "Watch/Watch", "Watch"},
    {"lease/grant", "Lease/LeaseGrant", "LeaseGrant"},
    {"lease/revoke", "Lease/LeaseRevoke", "LeaseRevoke"},
    {"kv/lease/revoke", "Lease/LeaseRevoke", "LeaseRevoke"},
    {"lease/keepalive", "Lease/LeaseKeepAlive", "LeaseKeepAlive"},
    {"lease/timetolive", "Lease/LeaseTimeToLive", "LeaseTimeToLive"},
    {"kv/lease/timetolive", "Lease/LeaseTimeToLive", "LeaseTimeToLive"},
    {"lease/leases", "Lease/LeaseLeases", "LeaseLeases"},
    {"kv/lease/leases", "Lease/LeaseLeases", "LeaseLeases"},
    {"cluster/member/list", "Cluster/MemberList", "MemberList"},
    {"cluster/member/add", "Cluster/MemberAdd", "MemberAdd"},
    {"cluster/member/remove", "Cluster/MemberRemove", "MemberRemove"},
    {"cluster/member/update", "Cluster/MemberUpdate", "MemberUpdate"},
    {"cluster/member/promote", "Cluster/MemberPromote", "MemberPromote"},
    {"maintenance/alarm", "Maintenance/Alarm", "Alarm"},
    {"maintenance/status", "Maintenance/Status", "Status"},
    {"maintenance/defragment", "Maintenance/Defragment", "Defragment"},
    {"maintenance/hash", "Maintenance/HashKV", "HashKV"},
    {"maintenance/snapshot", "Maintenance/Snapshot", "Snapshot"},
    {"maintenance/transfer-leadership", "Maintenance/MoveLeader", "MoveLeader"},
    {"maintenance/downgrade", "Maintenance/Downgrade", "Downgrade"},
    {"auth/enable", "Auth/AuthEnable", "AuthEnable"},
    {"auth/disable", "Auth/AuthDisable", "AuthDisable"},
    {"auth/status", "Auth/AuthStatus", "AuthStatus"},
    {"auth/authenticate", "Auth/Authenticate", "Authenticate"},
    {"auth/user/add", "Auth/UserAdd", "AuthUserAdd"},
    {"auth/user/get", "Auth/UserGet", "AuthUserGet"},
    {"auth/user/list", "Auth/UserList", "AuthUserList"},
    {"auth/user/delete", "Auth/UserDelete", "AuthUserDelete"},
    {"auth/user/changepw", "Auth/UserChangePassword", "AuthUserChangePassword"},
    {"auth/user/grant", "Auth/UserGrantRole", "AuthUserGrantRole"},
    {"auth/user/revoke", "Auth/UserRevokeRole", "AuthUserRevokeRole"},
    {"auth/role/add", "Auth/RoleAdd", "AuthRoleAdd"},
    {"auth/role/get", "Auth/RoleGet", "AuthRoleGet"},
    {"auth/role/list", "Auth/RoleList", "AuthRoleList"},
    {"auth/role/delete", "Auth/RoleDelete", "AuthRoleDelete"},
    {"auth/role/grant", "Auth/RoleGrantPermission", "AuthRoleGrantPermission"},
    {"auth/role/revoke", "Auth/RoleRevokePermission", "AuthRoleRevokePermission"},
    {"lock/lock", "v3lockpb.Lock/Lock", "Lock"},
    {"lock/unlock", "v3lockpb.Lock/Unlock", "Unlock"},
    {"election/campaign", "v3electionpb.Election/Campaign", "Campaign"},
    {"election/proclaim", "v3electionpb.Election/Proclaim", "Proclaim"},
    {"election/leader", "v3electionpb.Election/Leader", "Leader"},
    {"election/observe", "v3electionpb.Election/Observe", "Leader"},
    {"election/resign", "v3electionpb.Election/Resign", "Resign"},
};

/* ---- calls ---- */

static const struct route *route_of(struct span path) {
    static const char *const roots[] = {"/v3/", "/v3beta/", "/v3alpha/"};
    for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
        struct span p = path;
        if (span_starts(p, roots[i]) && span_skip(&p, strlen(roots[i])) == 0) {
            for (size_t k = 0; k < ARRAY_LEN(routes); k++) {
                if (span_eq_str(p, routes[k].path)) {
                    return &routes[k];
                }
            }
        }
    }
    return NULL;
}

static unsigned http_of(unsigned grpc) {
    switch (grpc) {
    case 0: return 200;
    case 1: return 499;
    case 3:
    case 9:
    case 11: return 400;
    case 4: return 504;
    case 5: return 404;
    case 6:
    case 10: return 409;
    case 7: return 403;
    case 8: return 429;
    case 12: return 501;
    case 14: return 503;
    case 16: return 401;
    default: return 500;
    }
}

void gateway_status(struct rpc *c, unsigned status, const char *text) {
    AUTO(buf) struct buf b = BUF_INIT(8192);
    if (!status) {
        if (c->m->stream || c->head_sent) {
            http_end(c->r);
        }
        return;
    }
    buf_str(&b, c->head_sent ? "{\"error\":{\"grpc_code\":" : "{\"error\":");
    if (c->head_sent) {
        buf_fmt(&b, "%u,\"http_code\":%u,\"message\":", status, http_of(status));
        json_write_str(&b, span_str(text));
        buf_str(&b, "}}\n");
        http_write(c->r, buf_view(&b));
        http_end(c->r);
        return;
    }
    json_write_str(&b, span_str(text));
    buf_fmt(&b, ",\"code\":%u,\"message\":", status);
    json_write_str(&b, span_str(text));
    buf_u8(&b, '}');
    http_respond(c->r, http_of(status), "application/json", NULL, 0, buf_view(&b));
}

void gateway_send(struct rpc *c, struct span message) {
    AUTO(buf) struct buf b = BUF_INIT((size_t)1 << 31);
    bool stream = c->m->stream || c->m->call == maint_snapshot || c->m->call == election_observe;
    buf_str(&b, stream ? "{\"result\":" : "");
    if (json_of_message(c->route->message, "Response", message, &b) < 0) {
        rpc_status(c, 13, "etcdserver: the answer cannot be written as JSON");
        return;
    }
    buf_str(&b, stream ? "}\n" : "");
    if (!stream && !c->head_sent) {
        http_respond(c->r, 200, "application/json", NULL, 0, buf_view(&b));
        return;
    }
    if (!c->head_sent) {
        c->head_sent = true;
        http_begin(c->r, 200, "application/json", NULL, 0);
    }
    http_write(c->r, buf_view(&b));
}

void gateway_waiting(struct rpc *c) {
    if (c->route && !c->head_sent) {
        c->head_sent = true;
        http_begin(c->r, 200, "application/json", NULL, 0);
    }
}

static void one_request(struct rpc *c, struct span text) {
    struct err e = ERR_INIT;
    AUTO(buf) struct buf pb = BUF_INIT(64 << 20);
    if (!text.n) {
        text = SPAN_LIT("{}");
    }
    if (message_of_json(c->route->message, "Request", text, &pb, &e) < 0) {
        rpc_status(c, 3, e.code ? e.msg : "the body is not a JSON object of the request's fields");
        return;
    }
    c->called = true;
    c->m->call(c, buf_view(&pb));
}

static void on_body(struct http_req *r, int rc, struct span body, void *ctx) {
    (void)r;
    struct rpc *c = rpc_ref(ctx);
    if (rc == -ERR_LIMIT) {
        rpc_status(c, 3, STORE_E_TOO_LARGE);
    } else if (rc == 0) {
        one_request(c, body);
    }
    rpc_unref(c);
}

bool gateway_request(const struct face *f, struct http_req *r) {
    const struct route *rt = route_of(http_req_path(r));
    if (!rt) {
        return false;
    }
    if (!span_eq_str(http_req_method(r), "POST")) {
        http_respond(r, 405, "application/json", NULL, 0,
                     SPAN_LIT("{\"error\":\"Method Not Allowed\"}"));
        return true;
    }
    AUTO_FREE char *path = str_fmt(
        "/%s%s", span_starts(span_str(rt->method), "v3") ? "" : "etcdserverpb.", rt->method);
    struct rpc *c = rpc_new(f, r, srv_method(span_str(path)));
    c->route = rt;
    if (f->ns && ns_refuses(c->m)) {
        rpc_status(c, 7, "etcdserver: permission denied");
        return true;
    }
    http_req_read_body(r, (size_t)f->v->o.max_request_bytes * 2 + LIM_MESSAGE_EXTRA, on_body,
                       c); /* base64 */
    return true;
}
