/* /metrics: etcd's names where the meaning is the same (docs/store.md lists them), kfarm_store_… for the rest. */
#include "internal/storesrv/srv_auth.h"

#include "internal/base/rand.h"
#include "internal/sys/sys.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

static void kind(struct buf *b, const char *name, const char *type) {
    buf_fmt(b, "# TYPE %s %s\n", name, type);
}

static void number(struct buf *b, const char *name, const char *type, uint64_t v) {
    kind(b, name, type);
    buf_fmt(b, "%s %llu\n", name, (unsigned long long)v);
}
static void gauge(struct buf *b, const char *name, uint64_t v) {
    number(b, name, "gauge", v);
}
static void counter(struct buf *b, const char *name, uint64_t v) {
    number(b, name, "counter", v);
}
static void info(struct buf *b, const char *name, const char *label, const char *value) {
    kind(b, name, "gauge");
    buf_fmt(b, "%s{%s=\"%s\"} 1\n", name, label, value);
}
static void seconds(struct buf *b, const char *name, const char *type, double v) {
    kind(b, name, type);
    buf_fmt(b, "%s %.3f\n", name, v);
}

/* ---- the process; what cannot be read is left out ---- */

static void memory(struct buf *b) {
    AUTO(buf) struct buf statm = BUF_INIT(512);
    struct err e = ERR_INIT;
    uint64_t pages[2], page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (sys_file_read(AT_FDCWD, "/proc/self/statm", &statm, &e) < 0) {
        return;
    }
    struct span s = buf_view(&statm), one;
    for (int i = 0; i < 2; i++) {
        if (!span_next(&s, ' ', &one) || span_to_u64(one, 0, UINT32_MAX, &pages[i]) < 0) {
            return;
        }
    }
    gauge(b, "process_virtual_memory_bytes", pages[0] * page);
    gauge(b, "process_resident_memory_bytes",
          pages[1] * page); /* read by etcdctl check datascale */
}

static void open_fds(struct buf *b) {
    struct rlimit r;
    DIR *d = opendir("/proc/self/fd");
    if (!d) {
        return;
    }
    uint64_t n = 0;
    while (readdir(d)) {
        n++;
    }
    closedir(d);
    gauge(b, "process_open_fds", n > 3 ? n - 3 : 0); /* without ".", ".." and this one */
    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        gauge(b, "process_max_fds", r.rlim_cur);
    }
}

static void process(const struct storesrv *v, struct buf *b) {
    struct rusage u;
    memory(b);
    open_fds(b);
    if (getrusage(RUSAGE_SELF, &u) == 0) {
        seconds(b, "process_cpu_seconds_total", "counter",
                (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                    (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    }
    seconds(b, "process_start_time_seconds", "gauge", (double)v->started_wall_ns / 1e9);
}

/* ---- calls ---- */

static const char *code_name(size_t code) {
    static const char *const names[] = {
        "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
        "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
        "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
        "DataLoss", "Unauthenticated"};
    _Static_assert(ARRAY_LEN(names) == GRPC_CODES, "one for each");
    return names[code];
}

static void labels(struct buf *b, const struct method *m) {
    struct span path = m->path, service;
    IGNORE_ERR(span_skip(&path, 1), "begins with a slash");
    span_next(&path, '/', &service);
    bool many =
        m->call == maint_snapshot || m->call == election_observe || m->call == kv_range_stream;
    buf_fmt(b, "grpc_method=\"%.*s\",grpc_service=\"%.*s\",grpc_type=\"%s\"", SPAN_FMT(path),
            SPAN_FMT(service),
            m->stream ? "bidi_stream"
            : many    ? "server_stream"
                      : "unary");
}

static void calls(const struct storesrv *v, struct buf *b) {
    const struct method *m;
    kind(b, "grpc_server_started_total", "counter");
    for (size_t i = 0; (m = srv_method_at(i)); i++) {
        if (v->calls[i].started) {
            buf_str(b, "grpc_server_started_total{");
            labels(b, m);
            buf_fmt(b, "} %llu\n", (unsigned long long)v->calls[i].started);
        }
    }
    kind(b, "grpc_server_handled_total", "counter");
    for (size_t i = 0; (m = srv_method_at(i)); i++) {
        for (size_t code = 0; code < GRPC_CODES; code++) {
            if (v->calls[i].ended[code]) {
                buf_fmt(b, "grpc_server_handled_total{grpc_code=\"%s\",", code_name(code));
                labels(b, m);
                buf_fmt(b, "} %llu\n", (unsigned long long)v->calls[i].ended[code]);
            }
        }
    }
}

/* ---- the store ---- */

static void store(const struct storesrv *v, struct buf *b) {
    struct store_stat st;
    store_stat(v->st, &st);
    gauge(b, "etcd_server_proposals_committed_total", st.n_txns);
    gauge(b, "etcd_server_proposals_applied_total", st.n_txns);
    gauge(b, "etcd_server_proposals_pending", st.n_pending);
    gauge(b, "etcd_server_quota_backend_bytes", st.quota_bytes);
    gauge(b, "etcd_mvcc_db_total_size_in_bytes", st.db_bytes);
    gauge(b, "etcd_mvcc_db_total_size_in_use_in_bytes", st.in_use_bytes);
    counter(b, "etcd_mvcc_put_total", st.n_puts);
    counter(b, "etcd_mvcc_delete_total", st.n_deletes);
    counter(b, "etcd_mvcc_range_total", st.n_ranges);
    counter(b, "etcd_mvcc_txn_total", st.n_txns);
    gauge(b, "etcd_debugging_mvcc_current_revision", (uint64_t)st.rev);
    gauge(b, "etcd_debugging_mvcc_compact_revision", (uint64_t)st.compact_rev);
    gauge(b, "etcd_debugging_mvcc_watcher_total", st.n_watches);
    gauge(b, "etcd_debugging_mvcc_slow_watcher_total", st.n_slow_watches);
    gauge(b, "etcd_debugging_mvcc_watch_stream_total", v->n_streams);
    counter(b, "etcd_debugging_mvcc_events_total", st.n_events);
    gauge(b, "kfarm_store_leases", st.n_leases);
    counter(b, "kfarm_store_commits_total", st.n_commits);
    seconds(b, "kfarm_store_commit_seconds_total", "counter", (double)st.commit_ns_total / 1e9);
    gauge(b, "kfarm_store_wal_bytes", st.wal_bytes);
    counter(b, "kfarm_store_watch_pauses_total", v->n_slow);
}

void srv_metrics(struct storesrv *v, struct buf *b) {
    char id[20];
    IGNORE_ERR(str_put(id, sizeof(id), "%llx", (unsigned long long)v->member_id), "fits");
    info(b, "etcd_server_id", "server_id", id);
    info(b, "etcd_server_version", "server_version", ETCD_VERSION);
    info(b, "etcd_cluster_version", "cluster_version", "3.5");
    gauge(b, "etcd_server_has_leader", 1);
    gauge(b, "etcd_server_is_leader", 1);
    gauge(b, "etcd_server_is_learner", 0);
    counter(b, "etcd_server_leader_changes_seen_total", 1);
    counter(b, "etcd_server_health_success", v->n_healthy);
    counter(b, "etcd_server_health_failures", v->n_unhealthy);
    gauge(b, "etcd_debugging_auth_revision", v->auth->rev);
    gauge(b, "kfarm_store_calls", v->n_rpcs);
    store(v, b);
    calls(v, b);
    process(v, b);
}
