#include "cmd/cmd.h"
#include "internal/agent/agent.h"

#include <stdio.h>
#include <unistd.h>

int cmd_agent(struct cmdctx *c, struct err *e);

static int64_t opt_stage = 1;

static const struct opt options[] = {
    {"stage", OPT_I64, &opt_stage, "N", "1: in the initrd, 2: in the node image"},
    {NULL, OPT_STR, NULL, NULL, NULL},
};

int cmd_agent(struct cmdctx *c, struct err *e) {
    if (opt_parse(c, options, NULL, NULL, e) < 0) {
        return -(int)e->code;
    }
    if (getpid() != 1) {
        return err_set(
            e, ERR_UNSUPPORTED,
            "agent is the first process of a network-booted node; it is not started by hand");
    }
    int rc = opt_stage == 2 ? agent_stage2(e) : agent_stage1(e);
    if (rc == 0) {
        err_set(e, ERR_INTERNAL, "stage %lld ended", (long long)opt_stage);
    }
    agent_give_up(e);
}
