#include "cmd/store_flags.h"

#include "internal/base/rand.h"
#include "internal/json/json.h"
#include "internal/sys/sys.h"
#include "internal/yaml/yaml.h"

#include <stdlib.h>

/* ---- flags that change nothing here, or cannot be had ---- */

#define LONE "a store is one member: for more use an external etcd cluster"
#define NO_V2 "the v2 API is not served"
#define LOGS "logs go to stderr: let the service manager keep them"

/* Accepted when `only` is NULL, or when the value is one of the words in it ("" is always one); a boolean when it is
 * false. Otherwise refused with `why`. */
static const struct fixed {
    const char *name;
    enum opt_kind kind;
    const char *only, *why;
} fixed[] = {
    {"wal-dir", OPT_STR, "", "there is no log beside the data: use --data-dir"},
    {"initial-cluster-token", OPT_STR, NULL, NULL},
    {"snapshot-count", OPT_I64, NULL, NULL},
    {"heartbeat-interval", OPT_I64, NULL, NULL},
    {"election-timeout", OPT_I64, NULL, NULL},
    {"initial-election-tick-advance", OPT_BOOL, NULL, NULL},
    {"max-snapshots", OPT_I64, NULL, NULL},
    {"max-wals", OPT_I64, NULL, NULL},
    {"backend-bbolt-freelist-type", OPT_STR, NULL, NULL},
    {"backend-batch-interval", OPT_STR, NULL, NULL},
    {"backend-batch-limit", OPT_I64, NULL, NULL},
    {"socket-reuse-port", OPT_BOOL, "false", "one process serves a store: leave it out"},
    {"socket-reuse-address", OPT_BOOL, NULL, NULL},
    {"raft-read-timeout", OPT_STR, NULL, NULL},
    {"raft-write-timeout", OPT_STR, NULL, NULL},
    {"discovery", OPT_STR, "", LONE},
    {"discovery-fallback", OPT_STR, "proxy exit", LONE},
    {"discovery-proxy", OPT_STR, "", LONE},
    {"discovery-srv", OPT_STR, "", LONE},
    {"discovery-srv-name", OPT_STR, "", LONE},
    {"strict-reconfig-check", OPT_BOOL, NULL, NULL},
    {"pre-vote", OPT_BOOL, NULL, NULL},
    {"force-new-cluster", OPT_BOOL, NULL, NULL},
    {"enable-v2", OPT_BOOL, "false", NO_V2},
    {"v2-deprecation", OPT_STR, NULL, NULL},
    {"experimental-enable-v2v3", OPT_STR, "", NO_V2},
    {"client-cert-file", OPT_STR, NULL, NULL},
    {"client-key-file", OPT_STR, NULL, NULL},
    {"client-crl-file", OPT_STR, "", "revoked certificates are not read: issue from a new CA"},
    {"client-cert-allowed-hostname", OPT_STR, "",
     "names in certificates are not checked: give clients a CA of their own, or switch auth on"},
    {"auto-tls", OPT_BOOL, "false", "give --cert-file and --key-file"},
    {"peer-auto-tls", OPT_BOOL, NULL, NULL},
    {"peer-cert-file", OPT_STR, NULL, NULL},
    {"peer-key-file", OPT_STR, NULL, NULL},
    {"peer-client-cert-file", OPT_STR, NULL, NULL},
    {"peer-client-key-file", OPT_STR, NULL, NULL},
    {"peer-client-cert-auth", OPT_BOOL, NULL, NULL},
    {"peer-trusted-ca-file", OPT_STR, NULL, NULL},
    {"peer-cert-allowed-cn", OPT_STR, NULL, NULL},
    {"peer-cert-allowed-hostname", OPT_STR, NULL, NULL},
    {"peer-crl-file", OPT_STR, NULL, NULL},
    {"experimental-peer-skip-client-san-verification", OPT_BOOL, NULL, NULL},
    {"self-signed-cert-validity", OPT_I64, NULL, NULL},
    {"cipher-suites", OPT_STR, "", "the suites are fixed: ECDHE with AEAD"},
    {"cors", OPT_STR, "*", "origins are not restricted: put a proxy in front"},
    {"host-whitelist", OPT_STR, "*",
     "hosts are not restricted: listen on loopback or demand certificates"},
    {"enable-pprof", OPT_BOOL, NULL, NULL},
    {"logger", OPT_STR, NULL, NULL},
    {"log-outputs", OPT_STR, "default stderr", LOGS},
    {"enable-log-rotation", OPT_BOOL, "false", LOGS},
    {"log-rotation-config-json", OPT_STR, NULL, NULL},
    {"experimental-enable-distributed-tracing", OPT_BOOL, "false", "traces are not sent"},
    {"experimental-distributed-tracing-address", OPT_STR, NULL, NULL},
    {"experimental-distributed-tracing-service-name", OPT_STR, NULL, NULL},
    {"experimental-distributed-tracing-instance-id", OPT_STR, NULL, NULL},
    {"experimental-distributed-tracing-sampling-rate", OPT_I64, NULL, NULL},
    {"proxy", OPT_STR, "off", NO_V2},
    {"proxy-failure-wait", OPT_I64, NULL, NULL},
    {"proxy-refresh-interval", OPT_I64, NULL, NULL},
    {"proxy-dial-timeout", OPT_I64, NULL, NULL},
    {"proxy-write-timeout", OPT_I64, NULL, NULL},
    {"proxy-read-timeout", OPT_I64, NULL, NULL},
    {"experimental-initial-corrupt-check", OPT_BOOL, NULL, NULL},
    {"experimental-corrupt-check-time", OPT_STR, NULL, NULL},
    {"experimental-compact-hash-check-enabled", OPT_BOOL, NULL, NULL},
    {"experimental-compact-hash-check-time", OPT_STR, NULL, NULL},
    {"experimental-compaction-batch-limit", OPT_I64, NULL, NULL},
    {"experimental-compaction-sleep-interval", OPT_STR, NULL, NULL},
    {"experimental-downgrade-check-time", OPT_STR, NULL, NULL},
    {"experimental-memory-mlock", OPT_BOOL, "false", "memory is not locked: leave swap off"},
    {"experimental-warning-apply-duration", OPT_STR, NULL, NULL},
    {"experimental-txn-mode-write-with-shared-buffer", OPT_BOOL, NULL, NULL},
    {"experimental-bootstrap-defrag-threshold-megabytes", OPT_I64, NULL, NULL},
    {"experimental-stop-grpc-service-on-defrag", OPT_BOOL, NULL, NULL},
    {"unsafe-no-fsync", OPT_BOOL, "false", "an acknowledged write is always durable here"},
};
_Static_assert(ARRAY_LEN(fixed) <= STORE_FIXED_MAX, "room for every flag");

/* etcd 3.6 dropped this from the names of what had proved itself. */
#define EXPERIMENTAL "experimental-"

static bool one_of(const char *words, const char *text) {
    struct span rest = span_str(words), word;
    while (span_next(&rest, ' ', &word)) {
        if (span_eq_str(word, text)) {
            return true;
        }
    }
    return !text || !*text;
}

static int check_fixed(const struct store_flags *f, struct err *e) {
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        const struct fixed *x = &fixed[i];
        if (x->only && x->kind == OPT_BOOL && f->fixed[i].on) {
            return err_set(e, ERR_USAGE, "--%s: %s", x->name, x->why);
        }
        if (x->only && x->kind == OPT_STR && !one_of(x->only, f->fixed[i].text)) {
            return err_set(e, ERR_USAGE, "--%s %s: %s", x->name, f->fixed[i].text, x->why);
        }
    }
    return 0;
}

/* ---- values ---- */

/* "1h30m", "5m", "10s", "500ms"; a bare number means `bare_unit`. */
static int duration(const char *flag, const char *text, uint64_t bare_unit, uint64_t *ret,
                    struct err *e) {
    struct span s = span_str(text);
    uint64_t sum = 0;
    if (bare_unit && span_to_u64(s, 0, 1000000, &sum) == 0) {
        *ret = sum * bare_unit;
        return 0;
    }
    while (s.n) {
        size_t digits = 0, unit = 0;
        uint64_t v, ns = 0;
        while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9') {
            digits++;
        }
        while (digits + unit < s.n && (s.p[digits + unit] < '0' || s.p[digits + unit] > '9')) {
            unit++;
        }
        struct span u = span_of(s.p + digits, unit);
        ns = span_eq_str(u, "h")    ? 3600 * NS_PER_S
             : span_eq_str(u, "m")  ? 60 * NS_PER_S
             : span_eq_str(u, "s")  ? NS_PER_S
             : span_eq_str(u, "ms") ? NS_PER_MS
                                    : 0;
        if (!ns || span_to_u64(span_of(s.p, digits), 0, 1000000000, &v) < 0 ||
            span_skip(&s, digits + unit) < 0) {
            return err_set(e, ERR_USAGE, "--%s: \"%s\" is not a duration like 5m or 1h30m", flag,
                           text);
        }
        sum += v * ns;
    }
    *ret = sum;
    return 0;
}

static int in_range(const char *flag, int64_t v, int64_t min, int64_t max, struct err *e) {
    return v >= min && v <= max ? 0
                                : err_set(e, ERR_USAGE, "--%s: %lld is not between %lld and %lld",
                                          flag, (long long)v, (long long)min, (long long)max);
}

/* etcd's own levels; the two above "error" end the process there. */
static const char *level_of(const char *text) {
    return str_eq(text, "panic") || str_eq(text, "fatal") || str_eq(text, "dpanic") ? "error"
                                                                                    : text;
}

static int check_cluster(const struct store_flags *f, struct err *e) {
    if (f->initial.n > 1) {
        return err_set(e, ERR_USAGE, "--initial-cluster names %zu members: " LONE, f->initial.n);
    }
    if (f->state && !str_eq(f->state, "new") && !str_eq(f->state, "existing")) {
        return err_set(e, ERR_USAGE, "--initial-cluster-state: \"%s\" is neither new nor existing",
                       f->state);
    }
    if (f->client.n && !f->advertise.n) {
        return err_set(
            e, ERR_USAGE,
            "--advertise-client-urls is required when --listen-client-urls is set explicitly");
    }
    return 0;
}

static int check_tls(const struct store_flags *f, struct err *e) {
    if (!f->cert != !f->key) {
        return err_set(e, ERR_USAGE, "--cert-file and --key-file go together");
    }
    if (f->cert_auth && !f->cert) {
        return err_set(e, ERR_USAGE, "--client-cert-auth needs --cert-file and --key-file");
    }
    if (f->cert_auth && !f->ca) {
        return err_set(e, ERR_USAGE, "--client-cert-auth needs --trusted-ca-file");
    }
    if (f->tls_min && !one_of("TLS1.2", f->tls_min)) {
        return err_set(e, ERR_USAGE, "--tls-min-version %s: TLS 1.2 and 1.3 are served",
                       f->tls_min);
    }
    if (f->tls_max && !one_of("TLS1.3", f->tls_max)) {
        return err_set(e, ERR_USAGE, "--tls-max-version %s: TLS 1.2 and 1.3 are served",
                       f->tls_max);
    }
    return 0;
}

static int check_auth(const struct store_flags *f, struct err *e) {
    struct span kind = span_str(f->auth_token), word;
    span_next(&kind, ',', &word);
    if (!span_eq_str(word, "simple")) {
        return err_set(e, ERR_USAGE,
                       "--auth-token %.*s: only simple tokens are supported; they are kept by the "
                       "one member there is, so signed ones would gain nothing",
                       SPAN_FMT(word));
    }
    int rc = in_range("bcrypt-cost", f->bcrypt_cost, 4, 31, e);
    return rc < 0 ? rc : in_range("auth-token-ttl", f->token_ttl, 1, 1 << 30, e);
}

static int check_compaction(struct store_flags *f, struct err *e) {
    struct storesrv_opts *o = &f->out.srv;
    bool periodic = str_eq(f->mode, "periodic");
    if (!periodic && !str_eq(f->mode, "revision")) {
        return err_set(e, ERR_USAGE,
                       "--auto-compaction-mode: \"%s\" is neither periodic nor revision", f->mode);
    }
    if (periodic) {
        int rc = duration("auto-compaction-retention", f->retention, 3600 * NS_PER_S,
                          &o->compact_retention, e);
        o->auto_compact =
            rc == 0 && o->compact_retention ? STORESRV_COMPACT_PERIODIC : STORESRV_COMPACT_OFF;
        return rc;
    }
    if (span_to_u64(span_str(f->retention), 0, INT64_MAX, &o->compact_retention) < 0) {
        return err_set(e, ERR_USAGE,
                       "--auto-compaction-retention: \"%s\" is not a number of revisions",
                       f->retention);
    }
    o->auto_compact = o->compact_retention ? STORESRV_COMPACT_REVISION : STORESRV_COMPACT_OFF;
    return 0;
}

/* etcd 3.6 has lease checkpoints as features: "Name=true,…". */
static int check_gates(struct store_flags *f, struct err *e) {
    static const char *const others[] = {"StopGRPCServiceOnDefrag", "InitialCorruptCheck",
                                         "CompactHashCheck",        "TxnModeWriteWithSharedBuffer",
                                         "SetMemberLocalAddr",      "PriorityRequest",
                                         "FastLeaseKeepAlive"};
    for (size_t i = 0; i < f->gates.n; i++) {
        struct span value = span_str(f->gates.v[i]), name;
        span_next(&value, '=', &name);
        bool on = span_eq_nocase(value, "true"), known = false;
        if (span_eq_str(name, "LeaseCheckpoint")) {
            f->lease_checkpoint = on;
            continue;
        }
        if (span_eq_str(name, "LeaseCheckpointPersist")) {
            f->lease_checkpoint_persist = on;
            continue;
        }
        for (size_t k = 0; k < ARRAY_LEN(others); k++) {
            known = known || span_eq_str(name, others[k]);
        }
        if (!known) {
            return err_set(e, ERR_USAGE, "--feature-gates: unknown feature \"%.*s\"",
                           SPAN_FMT(name));
        }
    }
    return 0;
}

static int check_leases(struct store_flags *f, struct err *e) {
    uint64_t ns = 0;
    int rc = duration("lease-checkpoint-interval", f->lease_checkpoint_interval, 0, &ns, e);
    if (rc == 0 && (ns < NS_PER_S || ns > 86400 * NS_PER_S)) {
        rc = err_set(e, ERR_USAGE, "--lease-checkpoint-interval %s: is not between 1s and 24h",
                     f->lease_checkpoint_interval);
    }
    if (rc == 0 && f->lease_checkpoint_persist && !f->lease_checkpoint) {
        rc = err_set(e, ERR_USAGE,
                     "--experimental-enable-lease-checkpoint-persist needs "
                     "--experimental-enable-lease-checkpoint");
    }
    f->out.lease_checkpoint_s = f->lease_checkpoint_persist ? (uint32_t)(ns / NS_PER_S) : 0;
    return rc;
}

static int check_limits(const struct store_flags *f, struct err *e) {
    int rc = in_range("max-txn-ops", f->max_ops, 1, 1 << 20, e);
    rc = rc < 0 ? rc : in_range("max-request-bytes", f->max_bytes, 1, 1 << 30, e);
    rc = rc < 0 ? rc : in_range("max-concurrent-streams", f->max_streams, 1, UINT32_MAX, e);
    return rc < 0 ? rc : in_range("quota-backend-bytes", f->quota, 0, INT64_MAX, e);
}

static int check(struct store_flags *f, struct err *e) {
    struct storesrv_opts *o = &f->out.srv;
    struct http_keepalive *keep = &f->out.keepalive;
    int rc;
    if ((rc = check_fixed(f, e)) < 0 || (rc = check_cluster(f, e)) < 0 ||
        (rc = check_tls(f, e)) < 0 || (rc = check_auth(f, e)) < 0 ||
        (rc = check_limits(f, e)) < 0 || (rc = check_gates(f, e)) < 0 ||
        (rc = check_leases(f, e)) < 0 ||
        (rc = duration("grpc-keepalive-min-time", f->keep_min, 0, &keep->min_ns, e)) < 0 ||
        (rc = duration("grpc-keepalive-interval", f->keep_interval, 0, &keep->interval_ns, e)) <
            0 ||
        (rc = duration("grpc-keepalive-timeout", f->keep_timeout, 0, &keep->timeout_ns, e)) < 0) {
        return rc;
    }
    if (!keep->timeout_ns) { /* as etcd: both or none */
        keep->interval_ns = 0;
    }
    if (!keep->min_ns) { /* gRPC's own bound */
        keep->min_ns = 300 * NS_PER_S;
    }
    f->log_level = level_of(f->log_level);
    if (!one_of("basic extensive", f->metrics_kind)) {
        return err_set(e, ERR_USAGE, "--metrics: \"%s\" is neither basic nor extensive",
                       f->metrics_kind);
    }
    if (!f->client.n) {
        f->client.v[f->client.n++] = "http://127.0.0.1:2379";
        if (!f->advertise.n) {
            f->advertise.v[f->advertise.n++] = "http://localhost:2379";
        }
    }
    if (!f->peer_advertise.n) {
        f->peer_advertise.v[f->peer_advertise.n++] = "http://localhost:2380";
    }
    *o = (struct storesrv_opts){.name = f->name,
                                .client_urls = f->advertise.v,
                                .n_client_urls = f->advertise.n,
                                .peer_urls = f->peer_advertise.v,
                                .n_peer_urls = f->peer_advertise.n,
                                .max_request_bytes = (uint32_t)f->max_bytes,
                                .max_txn_ops = (uint32_t)f->max_ops,
                                .no_gateway = !f->gateway,
                                .bcrypt_cost = (unsigned)f->bcrypt_cost,
                                .token_ttl_ns = (uint64_t)f->token_ttl * NS_PER_S};
    rc = check_compaction(f, e);
    return rc < 0 || !f->progress ? rc
                                  : duration("experimental-watch-progress-notify-interval",
                                             f->progress, NS_PER_S, &o->progress_ns, e);
}

/* ---- etcd's configuration file: names of flags, and two groups ---- */

static int set_key(const struct opt *opts, const char *group, const char *key, const struct json *v,
                   const char *path, struct err *e) {
    AUTO_FREE char *name = str_fmt("%s%s", group, key);
    if (json_is_null(v)) {
        return 0;
    }
    int rc = 0;
    if (json_is_arr(v)) { /* etcd has lists where the command line has a word */
        JSON_EACH(it, x, v) {
            rc = rc < 0 ? rc : opt_set(opts, name, x, path, e);
        }
    } else {
        rc = opt_set(opts, name, v, path, e);
    }
    return rc == -ERR_NOT_FOUND ? err_set(e, ERR_USAGE, "%s: unknown key \"%s%s%s\"", path, group,
                                          *group ? "." : "", key)
                                : rc;
}

static int from_file(const struct opt *opts, const char *path, struct err *e) {
    static const struct {
        const char *key, *prefix;
    } groups[] = {{"client-transport-security", ""}, {"peer-transport-security", "peer-"}};
    AUTO(buf) struct buf b = BUF_INIT(1 << 20);
    AUTO(json_docp) struct json_doc *d = NULL;
    int rc = sys_file_read(AT_FDCWD, path, &b, e);
    if (rc < 0 || (rc = yaml_parse(buf_view(&b), &d, e)) < 0) {
        return err_wrap(e, "--config-file %s", path);
    }
    if (!json_is_obj(json_root(d))) {
        return err_set(e, ERR_USAGE, "--config-file %s: must be a map of flags", path);
    }
    JSON_EACH_KV(it, k, v, json_root(d)) {
        const char *prefix = NULL;
        for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
            prefix = str_eq(k, groups[i].key) ? groups[i].prefix : prefix;
        }
        if (!prefix) {
            rc = set_key(opts, "", k, v, path, e);
        } else if (json_is_obj(v)) {
            JSON_EACH_KV(inner, k2, v2, v) {
                rc = rc < 0 ? rc : set_key(opts, prefix, k2, v2, path, e);
            }
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* ---- all of them ---- */

enum { OPTS_MAX = 160 };

static void add(struct opt *opts, size_t *n, struct opt o) {
    CHECK(*n < OPTS_MAX - 1);
    opts[(*n)++] = o;
}

static void add_fixed(struct store_flags *f, struct opt *opts, size_t *n) {
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        const struct fixed *x = &fixed[i];
        void *dst = x->kind == OPT_BOOL  ? (void *)&f->fixed[i].on
                    : x->kind == OPT_I64 ? (void *)&f->fixed[i].n
                                         : (void *)&f->fixed[i].text;
        const char *arg = x->kind == OPT_BOOL ? NULL : x->kind == OPT_I64 ? "N" : "S";
        struct opt o = {x->name, x->kind, dst, arg, x->why};
        add(opts, n, o);
        if (span_starts(span_str(x->name), EXPERIMENTAL)) {
            o.name += strlen(EXPERIMENTAL);
            add(opts, n, o);
        }
    }
}

int store_flags_parse(struct cmdctx *c, struct store_flags *f, struct opt_list *ret_pos,
                      struct err *e) {
    *f = (struct store_flags){.name = "default",
                              .log_level = "info",
                              .mode = "periodic",
                              .retention = "0",
                              .auth_token = "simple",
                              .max_ops = 128,
                              .max_bytes = 1536 * 1024,
                              .max_streams = UINT32_MAX,
                              .bcrypt_cost = 10,
                              .token_ttl = 300,
                              .keep_min = "5s",
                              .keep_interval = "2h",
                              .keep_timeout = "20s",
                              .gateway = true,
                              .lease_checkpoint_interval = "5m",
                              .metrics_kind = "basic",
                              .ready_fd = -1};
    const struct opt own[] = {
        {"name", OPT_STR, &f->name, "NAME", "name of this member"},
        {"data-dir", OPT_STR, &f->data_dir, "DIR", "directory of the data (default NAME.etcd)"},
        {"config-file", OPT_STR, &f->config_file, "FILE",
         "etcd's YAML; with it other flags and the environment do not count"},
        {"listen-client-urls", OPT_LIST, &f->client, "URLS",
         "where clients connect: http, https, unix, unixs"},
        {"advertise-client-urls", OPT_LIST, &f->advertise, "URLS",
         "what the member list tells clients"},
        {"listen-client-http-urls", OPT_LIST, &f->http, "URLS",
         "further addresses for the JSON gateway, metrics and health"},
        {"listen-metrics-urls", OPT_LIST, &f->metrics, "URLS",
         "further addresses for metrics and health"},
        {"listen-namespace-urls", OPT_LIST, &f->ns, "URL=PREFIX",
         "addresses that serve only the keys with this prefix, without it"},
        {"namespace-trusted-ca-file", OPT_LIST, &f->ns_ca, "PREFIX=FILE",
         "CA whose certificates the namespace's clients must have"},
        {"cert-file", OPT_STR, &f->cert, "FILE", "server certificate"},
        {"key-file", OPT_STR, &f->key, "FILE", "its key"},
        {"trusted-ca-file", OPT_STR, &f->ca, "FILE", "CA of client certificates"},
        {"client-cert-auth", OPT_BOOL, &f->cert_auth, NULL, "require client certificates"},
        {"tls-min-version", OPT_STR, &f->tls_min, "V", "TLS1.2"},
        {"tls-max-version", OPT_STR, &f->tls_max, "V", "TLS1.3"},
        {"insecure-listen", OPT_BOOL, &f->insecure, NULL, "serve without TLS beyond loopback"},
        {"quota-backend-bytes", OPT_I64, &f->quota, "N",
         "the file may not grow past it (0: 2 GiB)"},
        {"auto-compaction-mode", OPT_STR, &f->mode, "MODE", "periodic or revision"},
        {"auto-compaction-retention", OPT_STR, &f->retention, "R",
         "duration or number of revisions (0: off)"},
        {"max-txn-ops", OPT_I64, &f->max_ops, "N", "operations in a transaction"},
        {"max-request-bytes", OPT_I64, &f->max_bytes, "N", "size of a request"},
        {"max-concurrent-streams", OPT_I64, &f->max_streams, "N", "calls on one connection"},
        {"grpc-keepalive-min-time", OPT_STR, &f->keep_min, "D",
         "a client that pings more often is told to calm down"},
        {"grpc-keepalive-interval", OPT_STR, &f->keep_interval, "D",
         "a silent client is probed after it (0s: never)"},
        {"grpc-keepalive-timeout", OPT_STR, &f->keep_timeout, "D", "and given up after this"},
        {"enable-grpc-gateway", OPT_BOOL, &f->gateway, NULL, "serve the JSON gateway"},
        {"experimental-watch-progress-notify-interval", OPT_STR, &f->progress, "D",
         "progress notifications"},
        {"watch-progress-notify-interval", OPT_STR, &f->progress, "D", "progress notifications"},
        {"experimental-enable-lease-checkpoint", OPT_BOOL, &f->lease_checkpoint, NULL,
         "with the next one: leases keep their remaining time"},
        {"experimental-enable-lease-checkpoint-persist", OPT_BOOL, &f->lease_checkpoint_persist,
         NULL, "over a restart"},
        {"lease-checkpoint-interval", OPT_STR, &f->lease_checkpoint_interval, "D", "how often"},
        {"feature-gates", OPT_LIST, &f->gates, "NAME=BOOL", "the same, as etcd 3.6 has them"},
        {"auth-token", OPT_STR, &f->auth_token, "KIND", "simple"},
        {"auth-token-ttl", OPT_I64, &f->token_ttl, "S",
         "a token ends this long after its last use"},
        {"bcrypt-cost", OPT_I64, &f->bcrypt_cost, "N", "work for a password, 4 to 31"},
        {"metrics", OPT_STR, &f->metrics_kind, "KIND", "basic or extensive: the same here"},
        {"log-level", OPT_STR, &f->log_level, "LEVEL", "debug, info, warn or error"},
        {"ready-fd", OPT_I64, &f->ready_fd, "N", "readiness pipe"},
        {"repair", OPT_BOOL, &f->repair, NULL, "check: rebuild what can be rebuilt"},
        {"listen-peer-urls", OPT_LIST, &f->peer, "URLS", "accepted: one member has no peers"},
        {"initial-advertise-peer-urls", OPT_LIST, &f->peer_advertise, "URLS",
         "told in the member list"},
        {"initial-cluster", OPT_LIST, &f->initial, "NAME=URL", "this member"},
        {"initial-cluster-state", OPT_STR, &f->state, "STATE", "new or existing"},
    };
    struct opt opts[OPTS_MAX] = {0};
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        add(opts, &n, own[i]);
    }
    add_fixed(f, opts, &n);
    struct store_flags defaults = *f;
    int rc = opt_parse(c, opts, ret_pos, NULL, e);
    if (rc == 0 && f->config_file) {
        const char *path = f->config_file;
        int64_t ready = f->ready_fd;
        *f = defaults;
        f->config_file = path;
        f->ready_fd = ready;
        rc = from_file(opts, path, e);
    }
    rc = rc < 0 ? rc : check(f, e);
    if (rc == 0 && !f->data_dir) {
        f->data_dir = str_fmt("%s.etcd", f->name); /* lives as long as the process */
    }
    return rc;
}
