/* Private to etcd: the connection, calls, messages, the feed of the watches. */
#ifndef KF_ETCD_INT_H
#define KF_ETCD_INT_H

#include "internal/etcd/etcd.h"
#include "internal/grpc/grpc.h"
#include "internal/h2/h2.h"
#include "internal/net/net.h"
#include "internal/store/store_impl.h"

struct etcd;
struct endpoint {
    struct etcd *s;
    char *url, *host, *authority;
    uint16_t port;
    struct net_addr addrs[NET_LOOKUP_ADDRS]; /* of a name: what the last look-up gave */
    size_t n_addrs, at_addr;
    struct net_lookup *lookup; /* goes on when the endpoint's turn is over */
    bool tls, is_name;
};

/* How our keys are called over there. */
struct names {
    struct span prefix;     /* of every key */
    struct span first, end; /* the interval of all of ours */
    bool rooted;
};

/* ---- calls: one request, one answer ---- */

struct etcd;
struct ecall;
/* message: of the answer, when rc >= 0. Called once, never before ecall_start returned, unless the store closes. */
typedef void ecall_done(struct ecall *c, int rc, struct span message, struct err *e);
struct ecall {
    struct list link; /* in waiting or running */
    struct etcd *s;
    struct loop_timer deadline, again;
    uint64_t due_ns;
    const char *path;
    struct buf out; /* framed request */
    size_t mark, sent;
    bool is_read;  /* may be repeated */
    bool is_probe; /* goes out before the connection counts as ready, and dies with it */
    bool queued, running, ended, status_seen;
    int32_t sid;
    struct grpc_reader in;
    struct err status, refused, last; /* refused: set before the start, answered from the loop; last: of a read */
    ecall_done *done;
    void *ctx;
};
struct ecall *ecall_new(struct etcd *s, const char *path, ecall_done *done, void *ctx);
/* The request has been appended to c->out behind ecall_new. */
void ecall_start(struct ecall *own_c);
void ecall_cancel(struct ecall *own_c); /* no callback; NULL is allowed */

/* ---- the connection ---- */

enum conn_state { CONN_DOWN, CONN_DIALING, CONN_PROBING, CONN_READY };

/* The request stream of the feed. */
struct wstream {
    int32_t sid; /* 0: none */
    struct buf out;
    size_t sent;
    struct grpc_reader in;
};

/* An answered write that waits for the feed. */
struct eheld;
typedef void eheld_done(struct eheld *h, bool in_time);
struct eheld {
    struct list link;
    struct loop_timer deadline;
    struct etcd *s;
    int64_t rev;
    eheld_done *release;
};

struct etcd {
    const struct store_impl *impl;
    struct loop *l;
    struct endpoint ep[LIM_ETCD_ENDPOINTS];
    size_t n_ep, at_ep, failed_eps; /* failed_eps: in a row */
    struct names ns;
    struct arena mem; /* of the names */
    struct tls_config *tls;
    void (*on_state)(void *ctx, const char *trouble);
    void *state_ctx;
    char trouble[ERR_MSG_MAX];
    bool in_trouble, closing;

    enum conn_state state;
    struct net_stream *st;
    struct h2 *h2;
    struct loop_hook pump, dispatch;
    struct loop_timer timer; /* dialing: its end; down: the next try; ready: silence */
    uint8_t *rx;
    uint64_t heard_ns, busy_ns; /* of the last bytes; of the last request after none was out */
    bool ping_out, in_h2, broken;
    struct err broken_why;
    struct list waiting, running, resting; /* resting: reads that are repeated a little later */
    size_t n_waiting, n_running, n_probes;

    int64_t rev, compact_rev; /* rev: newest that the watches were given; while there are none, heard */
    int64_t heard;            /* newest that any answer told */
    uint64_t cluster_id;
    uint64_t db_bytes, in_use_bytes;
    bool sound_progress; /* answers to progress requests never overtake events (etcd#15220) */

    struct list watches;
    bool feeding; /* an etcd watch is wanted */
    int64_t next; /* the feed's next revision; 0: not known before the first connection */
    struct wstream ws;
    bool ws_created, ws_prev;
    struct arena batch_mem; /* events not given yet: revisions may come in pieces */
    struct store_event *batch;
    size_t n_batch, cap_batch;
    const struct store_event **scratch;
    size_t cap_scratch;
    struct list held;
    struct loop_timer progress_timer;
    bool progress_wanted, fencing, giving;
    struct eheld fence_hold;

    bool alone; /* nobody else writes behind the prefix */
    struct list sync_waiting, sync_reading;
    bool sync_busy, sync_held;
    struct eheld sync_hold;

    struct store_stat st_count;
};

/* etcd_conn.c */
NODISCARD int etcd_endpoint_parse(struct endpoint *ep, const char *url, struct err *e);
void etcd_endpoint_fini(struct endpoint *ep);
static inline struct etcd *etcd_of(struct store *s) {
    return (struct etcd *)(void *)s;
}
void econn_start(struct etcd *s);
void econn_stop(struct etcd *s);
void econn_kick(struct etcd *s);                          /* there is something to send */
void econn_fail(struct etcd *s, const struct err *e);     /* gives this connection up; the next endpoint's turn */
void econn_well(struct etcd *s);
void econn_busy(struct etcd *s);                          /* a first request is out */
void econn_drained(struct etcd *s);                       /* the last one has its answer */
/* etcd_call.c */
void ecall_dispatch(struct etcd *s); /* waiting ones that may go */
void ecall_dispatch_hook(void *etcd);
void ecall_lost(struct etcd *s, const struct err *e);    /* the connection is gone */
void ecall_fini(struct etcd *s);
void ecall_headers(struct ecall *c, const struct h2_headers *hs);
void ecall_data(struct ecall *c, struct span data);
void ecall_ended(struct ecall *c);
void ecall_closed(struct ecall *c, uint32_t code);
void ecall_pull(struct ecall *c, uint8_t *p, size_t max, struct h2_pull *ret);
size_t ecall_request_headers(struct etcd *s, const char *path, struct h2_header *hs); /* of LIM_H2_FIELDS */
/* Status of an answer in its headers or trailers: false when they have none. */
bool etcd_status(const struct h2_headers *hs, struct err *ret);

/* etcd_feed.c */
void efeed_connected(struct etcd *s); /* starts or resumes the watch */
void efeed_lost(struct etcd *s);
void efeed_headers(struct etcd *s, const struct h2_headers *hs);
void efeed_data(struct etcd *s, struct span data);
void efeed_closed(struct etcd *s, uint32_t code);
void efeed_pull(struct etcd *s, uint8_t *p, size_t max, struct h2_pull *ret);
void efeed_ask_progress(struct etcd *s);
void efeed_init(struct etcd *s);
void efeed_fini(struct etcd *s);
/* What a new connection knows. A history that is not the one that was watched (the cluster was restored from an older state,
 * or is another) ends the watches. */
void efeed_history(struct etcd *s, uint64_t cluster_id, int64_t rev);
void efeed_heard(struct etcd *s, int64_t rev); /* of an answer: counts while nobody watches */
/* Calls `done` when the watches have been given everything up to rev (at once when they have), or when it is too late. */
void efeed_hold(struct etcd *s, struct eheld *h, int64_t rev, eheld_done *done);
NODISCARD int efeed_watch_start(struct store *st, const struct store_watch_req *q,
                               store_watch_cb *cb, void *ctx, struct store_watch **ret,
                               struct err *e);
void efeed_watch_stop(struct store_watch *w);
void efeed_watch_resume(struct store_watch *w);
void efeed_watch_progress(struct store_watch *w);
int64_t efeed_watch_next_rev(const struct store_watch *w);

/* Makes etcd say how far the feed has come, when a sync waits for it. */
void efeed_ask_sync(struct etcd *s);

/* etcd_sync.c */
void esync_init(struct etcd *s);
void etcd_sync(struct store *st, store_done *done, void *ctx);

/* etcd_codec.c: bytes in, values out. Decoders copy into the arena and give keys without the prefix. */
struct answer_head {
    uint64_t cluster_id, member_id;
    int64_t rev;
};
void etcd_enc_key(struct buf *b, uint32_t no, const struct names *ns, struct span key);
void etcd_enc_range(struct buf *b, const struct names *ns, const struct store_range_req *q);
void etcd_enc_txn(struct buf *b, const struct names *ns, const struct store_body *body);
void etcd_enc_watch_create(struct buf *b, const struct names *ns, int64_t start_rev, bool prev_kv);
NODISCARD int etcd_dec_first_head(struct span m, struct answer_head *ret); /* that of an answer: its field 1 */
NODISCARD int etcd_dec_range(struct span m, const struct names *ns, struct arena *a,
                        struct store_range_res *ret);
/* Fills the results of the body's operations; -ERR_INVALID when the answer is not one to this body. */
NODISCARD int etcd_dec_txn(struct span m, const struct names *ns, struct arena *a,
                      struct store_body *body, int64_t *ret_rev);
bool etcd_body_changed(const struct store_body *b); /* after etcd_dec_txn: a revision was made */

struct watch_answer {
    struct answer_head head;
    bool created, canceled, fragment, has_events;
    int64_t compact_rev, watch_id;
    struct span reason;
    struct span events; /* the message again, for etcd_dec_events */
};
NODISCARD int etcd_dec_watch(struct span m, struct watch_answer *ret);
typedef int etcd_event_cb(void *ctx, const struct store_event *ev); /* borrowed from the message */
NODISCARD int etcd_dec_events(struct span m, const struct names *ns, etcd_event_cb *cb, void *ctx);

struct status_answer {
    struct answer_head head;
    struct span version;
    uint64_t db_bytes, in_use_bytes;
};
NODISCARD int etcd_dec_status(struct span m, struct status_answer *ret);
NODISCARD int etcd_dec_grant(struct span m, int64_t *ret_id, int64_t *ret_ttl, struct span *ret_error);

#endif
