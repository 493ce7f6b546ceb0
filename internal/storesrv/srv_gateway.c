/* The JSON gateway: the same calls as HTTP/1.1 or HTTP/2 POST with JSON bodies. Bytes travel as base64, 64-bit integers
 * as strings, enums as names, as protobuf's JSON mapping has it. */
#include "internal/json/json.h"
#include "internal/pb/pb.h"
#include "internal/storesrv/srv_int.h"

#include "internal/base/rand.h"

#include <stdlib.h>

static const struct route {
    const char *path, *method, *request, *response;
} routes[] = {
    {"kv/range", "KV/Range", "RangeRequest", "RangeResponse"},
    {"kv/put", "KV/Put", "PutRequest", "PutResponse"},
    {"kv/deleterange", "KV/DeleteRange", "DeleteRangeRequest", "DeleteRangeResponse"},
    {"kv/txn", "KV/Txn", "TxnRequest", "TxnResponse"},
    {"kv/compaction", "KV/Compact", "CompactionRequest", "CompactionResponse"},
    {"watch", "Watch/Watch", "WatchRequest", "WatchResponse"},
    {"lease/grant", "Lease/LeaseGrant", "LeaseGrantRequest", "LeaseGrantResponse"},
    {"lease/revoke", "Lease/LeaseRevoke", "LeaseRevokeRequest", "LeaseRevokeResponse"},
    {"kv/lease/revoke", "Lease/LeaseRevoke", "LeaseRevokeRequest", "LeaseRevokeResponse"},
    {"lease/keepalive", "Lease/LeaseKeepAlive", "LeaseKeepAliveRequest", "LeaseKeepAliveResponse"},
    {"lease/timetolive", "Lease/LeaseTimeToLive", "LeaseTimeToLiveRequest",
     "LeaseTimeToLiveResponse"},
    {"kv/lease/timetolive", "Lease/LeaseTimeToLive", "LeaseTimeToLiveRequest",
     "LeaseTimeToLiveResponse"},
    {"lease/leases", "Lease/LeaseLeases", "LeaseLeasesRequest", "LeaseLeasesResponse"},
    {"kv/lease/leases", "Lease/LeaseLeases", "LeaseLeasesRequest", "LeaseLeasesResponse"},
    {"cluster/member/list", "Cluster/MemberList", "MemberListRequest", "MemberListResponse"},
    {"cluster/member/add", "Cluster/MemberAdd", "MemberAddRequest", "MemberAddResponse"},
    {"cluster/member/remove", "Cluster/MemberRemove", "MemberRemoveRequest",
     "MemberRemoveResponse"},
    {"cluster/member/update", "Cluster/MemberUpdate", "MemberUpdateRequest",
     "MemberUpdateResponse"},
    {"cluster/member/promote", "Cluster/MemberPromote", "MemberPromoteRequest",
     "MemberPromoteResponse"},
    {"maintenance/alarm", "Maintenance/Alarm", "AlarmRequest", "AlarmResponse"},
    {"maintenance/status", "Maintenance/Status", "StatusRequest", "StatusResponse"},
    {"maintenance/defragment", "Maintenance/Defragment", "DefragmentRequest", "DefragmentResponse"},
    {"maintenance/hash", "Maintenance/HashKV", "HashKVRequest", "HashKVResponse"},
    {"maintenance/snapshot", "Maintenance/Snapshot", "SnapshotRequest", "SnapshotResponse"},
    {"maintenance/transfer-leadership", "Maintenance/MoveLeader", "MoveLeaderRequest",
     "MoveLeaderResponse"},
    {"maintenance/downgrade", "Maintenance/Downgrade", "DowngradeRequest", "DowngradeResponse"},
    {"auth/enable", "Auth/AuthEnable", "AuthEnableRequest", "AuthEnableResponse"},
    {"auth/disable", "Auth/AuthDisable", "AuthDisableRequest", "AuthDisableResponse"},
    {"auth/status", "Auth/AuthStatus", "AuthStatusRequest", "AuthStatusResponse"},
    {"auth/authenticate", "Auth/Authenticate", "AuthenticateRequest", "AuthenticateResponse"},
    {"auth/user/add", "Auth/UserAdd", "AuthUserAddRequest", "AuthUserAddResponse"},
    {"auth/user/get", "Auth/UserGet", "AuthUserGetRequest", "AuthUserGetResponse"},
    {"auth/user/list", "Auth/UserList", "AuthUserListRequest", "AuthUserListResponse"},
    {"auth/user/delete", "Auth/UserDelete", "AuthUserDeleteRequest", "AuthUserDeleteResponse"},
    {"auth/user/changepw", "Auth/UserChangePassword", "AuthUserChangePasswordRequest",
     "AuthUserChangePasswordResponse"},
    {"auth/user/grant", "Auth/UserGrantRole", "AuthUserGrantRoleRequest",
     "AuthUserGrantRoleResponse"},
    {"auth/user/revoke", "Auth/UserRevokeRole", "AuthUserRevokeRoleRequest",
     "AuthUserRevokeRoleResponse"},
    {"auth/role/add", "Auth/RoleAdd", "AuthRoleAddRequest", "AuthRoleAddResponse"},
    {"auth/role/get", "Auth/RoleGet", "AuthRoleGetRequest", "AuthRoleGetResponse"},
    {"auth/role/list", "Auth/RoleList", "AuthRoleListRequest", "AuthRoleListResponse"},
    {"auth/role/delete", "Auth/RoleDelete", "AuthRoleDeleteRequest", "AuthRoleDeleteResponse"},
    {"auth/role/grant", "Auth/RoleGrantPermission", "AuthRoleGrantPermissionRequest",
     "AuthRoleGrantPermissionResponse"},
    {"auth/role/revoke", "Auth/RoleRevokePermission", "AuthRoleRevokePermissionRequest",
     "AuthRoleRevokePermissionResponse"},
    {"lock/lock", "v3lockpb.Lock/Lock", "LockRequest", "LockResponse"},
    {"lock/unlock", "v3lockpb.Lock/Unlock", "UnlockRequest", "UnlockResponse"},
    {"election/campaign", "v3electionpb.Election/Campaign", "CampaignRequest", "CampaignResponse"},
    {"election/proclaim", "v3electionpb.Election/Proclaim", "ProclaimRequest", "ProclaimResponse"},
    {"election/leader", "v3electionpb.Election/Leader", "LeaderRequest", "LeaderResponse"},
    {"election/observe", "v3electionpb.Election/Observe", "LeaderRequest", "LeaderResponse"},
    {"election/resign", "v3electionpb.Election/Resign", "ResignRequest", "ResignResponse"},
};

/* The enum a field has, by its name: the tables carry numbers only. */
static const struct {
    const char *message, *field, *names[6];
} enums[] = {
    {"RangeRequest", "sort_order", {"NONE", "ASCEND", "DESCEND"}},
    {"RangeRequest", "sort_target", {"KEY", "VERSION", "CREATE", "MOD", "VALUE"}},
    {"Compare", "result", {"EQUAL", "GREATER", "LESS", "NOT_EQUAL"}},
    {"Compare", "target", {"VERSION", "CREATE", "MOD", "VALUE", "LEASE"}},
    {"WatchCreateRequest", "filters", {"NOPUT", "NODELETE"}},
    {"AlarmRequest", "action", {"GET", "ACTIVATE", "DEACTIVATE"}},
    {"AlarmRequest", "alarm", {"NONE", "NOSPACE", "CORRUPT"}},
    {"AlarmMember", "alarm", {"NONE", "NOSPACE", "CORRUPT"}},
    {"DowngradeRequest", "action", {"VALIDATE", "ENABLE", "CANCEL"}},
    {"Permission", "permType", {"READ", "WRITE", "READWRITE"}},
    {"Event", "type", {"PUT", "DELETE"}},
};

static const char *const *enum_of(const char *message, const char *field) {
    for (size_t i = 0; i < ARRAY_LEN(enums); i++) {
        if (str_eq(enums[i].message, message) && str_eq(enums[i].field, field)) {
            return enums[i].names;
        }
    }
    return NULL;
}

static const struct pb_message *message_named(const char *name) {
    for (const struct pb_message *m = pb_etcd; m->name; m++) {
        if (str_eq(m->name, name)) {
            return m;
        }
    }
    return NULL;
}

/* "range_end" is also called "rangeEnd". */
static bool same_name(const char *field, const char *given) {
    while (*field && *given) {
        if (*field == '_' && *given != '_' && field[1] >= 'a' && field[1] <= 'z' &&
            *given == field[1] - 32) {
            field += 2;
            given++;
        } else if (*field++ != *given++) {
            return false;
        }
    }
    return !*field && !*given;
}

static const struct pb_field *field_given(const struct pb_message *m, const char *name) {
    for (const struct pb_field *f = m->fields; f->name; f++) {
        if (same_name(f->name, name)) {
            return f;
        }
    }
    return NULL;
}

/* ---- JSON of the request → the tree that pb_encode takes ---- */

static struct json *take_message(struct json_doc *d, const struct pb_message *m,
                                 const struct json *v, unsigned depth);

static struct json *take_int(struct json_doc *d, const struct pb_message *m,
                             const struct pb_field *f, const struct json *v) {
    if (json_is_int(v)) {
        return json_copy(d, v);
    }
    const char *const *names = enum_of(m->name, f->name);
    for (size_t i = 0; json_is_str(v) && names && i < ARRAY_LEN(enums[0].names) && names[i]; i++) {
        if (str_eq(names[i], json_str(v))) {
            return json_new_i64(d, (int64_t)i);
        }
    }
    int64_t n;
    uint64_t u;
    if (span_to_i64(json_span(v), INT64_MIN, INT64_MAX, &n) == 0) {
        return json_new_i64(d, n);
    }
    return span_to_u64(json_span(v), 0, UINT64_MAX, &u) == 0 ? json_new_i64(d, (int64_t)u) : NULL;
}

static struct json *take_value(struct json_doc *d, const struct pb_message *m,
                               const struct pb_field *f, const struct json *v, unsigned depth) {
    AUTO(buf) struct buf raw = BUF_INIT(64 << 20);
    switch (f->kind) {
    case PB_INT:
    case PB_UINT: return take_int(d, m, f, v);
    case PB_BOOL: return json_kind(v) == JSON_BOOL ? json_copy(d, v) : NULL;
    case PB_STRING: return json_is_str(v) ? json_copy(d, v) : NULL;
    case PB_BYTES:
        return json_is_str(v) && b64_decode(&raw, json_span(v)) == 0
                   ? json_new_span(d, buf_view(&raw))
                   : NULL;
    case PB_MESSAGE: return take_message(d, &pb_etcd[f->message], v, depth + 1);
    case PB_DOUBLE:
    case PB_MAP: break; /* etcd's messages have none */
    }
    return NULL;
}

static struct json *take_message(struct json_doc *d, const struct pb_message *m,
                                 const struct json *v, unsigned depth) {
    if (!json_is_obj(v) || depth > PB_DEPTH) {
        return NULL;
    }
    struct json *out = json_new_obj(d);
    JSON_EACH_KV(it, k, x, v) {
        const struct pb_field *f = field_given(m, k);
        struct json *y = NULL;
        if (json_is_null(x)) {
            continue;
        }
        if (f && f->is_repeated && json_is_arr(x)) {
            y = json_new_arr(d);
            JSON_EACH(each, el, x) {
                struct json *e = take_value(d, m, f, el, depth);
                if (!e) {
                    return NULL;
                }
                json_push(y, e);
            }
        } else if (f && !f->is_repeated) {
            y = take_value(d, m, f, x, depth);
        }
        if (!y) {
            return NULL; /* no such field, or not of its kind */
        }
        json_set(d, out, f->name, y);
    }
    return out;
}

/* ---- the response's fields → JSON text, without a tree of base64 copies ---- */

static void give_message(struct buf *b, const struct pb_message *m, const struct json *v);

static void give_value(struct buf *b, const struct pb_message *m, const struct pb_field *f,
                       const struct json *v) {
    const char *const *names = enum_of(m->name, f->name);
    int64_t n = json_i64(v, 0);
    switch (f->kind) {
    case PB_INT:
        if (names && n >= 0 && n < 6 && names[n]) {
            buf_fmt(b, "\"%s\"", names[n]);
        } else {
            buf_fmt(b, "\"%lld\"", (long long)n);
        }
        break;
    case PB_UINT: /* the one 32-bit field is a plain number */
        buf_fmt(b, str_eq(f->name, "hash") ? "%llu" : "\"%llu\"", (unsigned long long)n);
        break;
    case PB_BOOL: buf_str(b, json_bool(v, false) ? "true" : "false"); break;
    case PB_STRING: json_write_str(b, json_span(v)); break;
    case PB_BYTES:
        buf_u8(b, '"');
        b64_encode(b, json_span(v));
        buf_u8(b, '"');
        break;
    case PB_MESSAGE: give_message(b, &pb_etcd[f->message], v); break;
    case PB_DOUBLE:
    case PB_MAP: break;
    }
}

static void give_message(struct buf *b, const struct pb_message *m, const struct json *v) {
    bool any = false;
    buf_u8(b, '{');
    for (const struct pb_field *f = m->fields; f->name; f++) {
        const struct json *x = json_get(v, f->name);
        if (!x) {
            continue;
        }
        buf_fmt(b, "%s\"%s\":", any ? "," : "", f->name);
        any = true;
        if (!f->is_repeated) {
            give_value(b, m, f, x);
            continue;
        }
        bool more = false;
        buf_u8(b, '[');
        JSON_EACH(it, el, x) {
            if (more) {
                buf_u8(b, ',');
            }
            more = true;
            give_value(b, m, f, el);
        }
        buf_u8(b, ']');
    }
    buf_u8(b, '}');
}

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
    const struct route *rt = c->route;
    struct json_doc *d = json_doc_new();
    struct json *v = NULL;
    AUTO(buf) struct buf b = BUF_INIT((size_t)1 << 31);
    bool stream = c->m->stream || c->m->call == maint_snapshot || c->m->call == election_observe;
    if (pb_decode(pb_etcd, rt->response, message, d, &v) < 0) {
        json_doc_free(d);
        rpc_status(c, 13, "etcdserver: the answer cannot be written as JSON");
        return;
    }
    buf_str(&b, stream ? "{\"result\":" : "");
    give_message(&b, message_named(rt->response), v);
    buf_str(&b, stream ? "}\n" : "");
    json_doc_free(d);
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
    const struct route *rt = c->route;
    struct json_doc *in = NULL;
    struct err e = ERR_INIT;
    AUTO(buf) struct buf pb = BUF_INIT(64 << 20);
    if (!text.n) {
        text = SPAN_LIT("{}");
    }
    int rc = json_parse(text, JSON_DUPS_OK, &in, &e);
    struct json *v = rc < 0 ? NULL : take_message(in, message_named(rt->request), json_root(in), 0);
    rc = v ? pb_encode(pb_etcd, rt->request, v, &pb) : -ERR_INVALID;
    json_doc_free(in);
    if (rc < 0) {
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
