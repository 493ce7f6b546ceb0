/* Private to the runner: a server that is hurt, clients that use it and write down what they see. */
#ifndef KF_LIN_RUN_H
#define KF_LIN_RUN_H

#include "internal/lin/fault.h"
#include "internal/lin/lin_int.h"

#include "internal/grpc/grpc.h"
#include "internal/http/http.h"
#include "internal/loop/loop.h"

enum { LIN_USERS = 4 }; /* the administrator is the first */
struct lin_pem {
    struct buf cert, key;
};
struct lin_pems {
    struct buf ca;
    struct lin_pem server, users[LIN_USERS];
};

enum lin_scenario {
    LIN_S_KILL,  /* the released binary, SIGKILL at any moment */
    LIN_S_STOP,  /* the released binary, SIGSTOP and SIGCONT */
    LIN_S_POWER, /* power loss between any two system calls */
    LIN_S_SYNC,  /* writes and syncs that fail, then power loss */
    LIN_S_SPACE, /* a disk that is full or read-only for a while */
    LIN_S_SLOW,  /* slow disk, watchers that do not read, progress, small messages */
    LIN_S_DRAG,  /* syncs of up to half a second: reads and leases must go on meanwhile */
    LIN_S_LAG,   /* large values, many watchers far behind, fragments, while old revisions are removed */
    LIN_S_CLOCK, /* clocks that jump, leases that end */
    LIN_S_USERS, /* users by token or certificate, permissions that change, deaths of three kinds */
    LIN_S_LIE,   /* power loss on a disk that lies about syncs: must be seen as loss, or these tests see nothing */
    LIN_S_MAX_
};
extern const char *const lin_scenario_names[LIN_S_MAX_];

struct lin_opts {
    const struct lin_pems *pems;
    const char *kfarm, *faulty, *keep; /* keep: folder for the histories of failed rounds */
    enum lin_scenario scenario;
    uint64_t seed;
    bool keep_all; /* the histories of good rounds too */
};

struct round;
#define LIN_LARGE ((int64_t)1 << 40) /* values above are large mostly */

/* ---- lin_run_server.c ---- */
enum server_state { SERVER_DOWN, SERVER_STARTING, SERVER_UP };
struct server {
    struct round *r;
    enum server_state state;
    pid_t pid;
    int ready_fd, ctl_fd;
    struct loop_child child;
    struct loop_io ready;
    struct loop_timer again; /* starts it after it ended */
    struct fault_ctl *ctl;
    char sock[96], data[96], log[96];
    bool faulty, dying, terming, stopped;
    bool troubled; /* its disk was broken while it started */
    unsigned n_starts, n_deaths, n_refused;
    uint64_t up_at; /* when it was ready */
};
NODISCARD int server_init(struct server *s, struct round *r, bool faulty, struct err *e);
NODISCARD int server_start(struct server *s, struct err *e);
void server_kill(struct server *s, int signo);
void server_fini(struct server *s);

/* ---- lin_run_rpc.c: etcd's messages ---- */
struct rpc;
typedef void rpc_done(void *ctx, int64_t code, struct span text, struct span msg);
struct rpc {
    struct http_call *call;
    struct grpc_reader in;
    struct buf last;
    bool pages;
    rpc_done *done;
    void *ctx;
    struct round *r;
};
/* One message each way; with a stream the first answer counts. */
void rpc_start(struct rpc *c, struct round *r, struct http_client *hc, const char *path, int user, struct span msg,
               rpc_done *done, void *ctx);
void rpc_leave(struct rpc *c); /* nothing follows */
enum { RPC_PAGES = 4 }; /* of op_encode's luck: a lone range comes in pages */
#define RPC_RANGE_STREAM "/etcdserverpb.KV/RangeStream"
/* Head of a gRPC call for http_call_opts. */
extern const struct http_header rpc_headers[2];
int64_t rpc_code(const struct http_call *c, int rc, struct span *ret_text);

int32_t rpc_key(struct span s);
int64_t rpc_value(struct span s); /* -1: none of ours */
void kv_text(struct buf *b, const struct lin_kv *k);
void op_text(struct buf *b, const struct lin_op *op, const char *kind);
const char *op_encode(struct buf *b, const struct lin_op *op, uint32_t luck); /* the path */
void op_answer(struct buf *b, const struct lin_op *op, const char *path, struct span msg);
/* A WatchResponse as lines. */
struct watch_news {
    int64_t id, rev;
    int64_t next; /* where the watch goes on when it is cut off after this; 0: where it would have before */
    bool created, canceled, progress;
};
NODISCARD int watch_lines(struct buf *b, struct span msg, int64_t stream, int64_t watch, struct watch_news *ret);
void watch_encode(struct buf *b, const struct lin_watch *w, bool progress, bool fragment);

/* ---- lin_run_users.c ---- */
struct users {
    struct round *r;
    bool on, by_cert, tls;
    bool made, in; /* they exist; all are logged in */
    bool busy;
    size_t step, logging_in;
    struct lin_op op; /* the permissions that all begin with */
    struct rpc rpc;
    struct http_client *hc;
    struct loop_timer timer;
    struct {
        char token[64];
        struct tls_config *tls;
    } id[LIN_USERS];
};
NODISCARD int lin_pems_make(struct lin_pems *p, struct err *e);
void lin_pems_fini(struct lin_pems *p);
NODISCARD int users_setup(struct round *r, struct err *e);
void users_leave(struct round *r);
NODISCARD int users_client(struct round *r, int user, struct http_client **ret, struct err *e);
size_t users_head(const struct round *r, int user, struct http_header ret[3]);
void users_next(struct round *r);          /* goes on with what is left to do before the clients' turn */
void users_out(struct round *r, int user); /* its token has ended; -1: all */
const char *users_password(struct round *r, struct buf *b);
void users_allow(struct round *r, struct lin_op *op);
const char *users_encode(struct buf *b, const struct lin_op *op);

/* ---- lin_run_round.c ---- */
enum { LIM_CLIENTS = 8, LIM_STREAMS = 16, STREAMS = 5 /* of most scenarios */ };
struct wait { /* what the reader met while one sync took long */
    uint32_t sync;
    unsigned n_syncs, n_stalls;
    bool passed, waited;
};
struct client {
    struct round *r;
    int32_t id;
    struct http_client *hc;
    struct rpc rpc;
    int user;
    struct lin_op op; /* the one under way */
    struct lin_txn inner[4]; /* of op */
    size_t n_inner;
    const char *kind, *path;
    bool busy;
    struct loop_timer timer;
    uint32_t asked_in; /* the reader: the long sync that was under way when it asked; 0: none */
};
struct stream { /* one watch on a stream of its own */
    struct round *r;
    struct http_client *hc;
    struct http_call *call;
    struct grpc_reader in;
    int64_t id;
    struct lin_watch w;
    int64_t next;
    bool all, asked, paused, created, ended;
    struct loop_timer timer;
};
struct maint { /* lin_run_maint.c */
    struct http_client *hc;
    struct http_call *call;
    struct grpc_reader in;
    struct buf shot;
    struct lin_op op; /* what the snapshot must be an answer to */
    bool shooting, whole, has_shot;
};
struct round {
    struct loop *l;
    struct lin_opts o;
    struct buf text;
    uint64_t state; /* of the random numbers */
    struct server server;
    struct users users;
    struct client clients[LIM_CLIENTS];
    struct client reader; /* of LIN_S_DRAG: asks all the time for what needs no sync */
    struct wait wait;
    struct stream streams[LIM_STREAMS];
    size_t n_clients, n_streams;
    int64_t n_calls, n_left, values, leases, next_stream, next_watch;
    int64_t rev, compacted; /* newest seen; compaction asked for */
    int64_t live[8];        /* leases that were granted */
    int32_t n_keys;
    bool waves;       /* one client alone for a while, then all at once, and so on */
    int64_t wave_end; /* n_left at the next turn */
    bool lone;        /* only the first client asks */
    bool ending, final_done, finished, failed;
    int64_t final_rev;
    char why[200];
    struct loop_timer nemesis, guard;
    unsigned blows_left, n_refused;
    bool then_kill, pausing;
    bool long_leases; /* that the server notes down every five minutes of its clock */
    struct maint maint;
    int64_t last_clock;
    char dir[64];
};
uint32_t round_luck(struct round *r, uint32_t n);
void round_fail(struct round *r, const char *fmt, ...) PRINTF(2, 3);
void round_clock(struct round *r); /* notes the server's clock */
void round_up(struct round *r);    /* the server is ready */
void round_down(struct round *r);
void client_next(struct client *c);
bool round_open(const struct round *r); /* the server is there and everybody is logged in */
void round_span(struct round *r, struct lin_sub *s);

/* ---- lin_run_watch.c ---- */
void stream_open(struct stream *s);
void stream_ask(struct stream *s);     /* for progress */
void stream_bother(struct round *r); /* what watchers do while nobody hurts the server */

struct round_result {
    struct lin_verdict v;
    bool failed;
    char why[200], history[160];
    unsigned n_starts, n_deaths, n_power, n_failed_calls, n_lost_pages, n_moved;
    unsigned n_restored;
    unsigned n_slow_syncs, n_stalls; /* that the reader met; that it stood still in */
};
NODISCARD int round_run(const struct lin_opts *o, struct round_result *ret, struct err *e);

/* ---- lin_run_maint.c ---- */
void maint_next(struct round *r);
void maint_leave(struct round *r);
void maint_fini(struct round *r);
NODISCARD int maint_restore(struct round *r, struct err *e); /* and writes down what it holds */

/* ---- lin_run_blow.c: what is done to the server ---- */
void blow_next(struct round *r);
void blow_heal(struct round *r);

#endif
