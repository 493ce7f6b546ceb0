#include "cmd/cmd.h"

#include "internal/base/version.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int cmd_help(struct cmdctx *c, struct err *e);
int cmd_version(struct cmdctx *c, struct err *e);

static void print_overview(FILE *f) {
    fputs("kfarm turns a rack of machines into many Kubernetes clusters.\n\nUsage: kfarm COMMAND "
          "[OPTIONS]\n\n",
          f);
    for (int roles = 0; roles < 2; roles++) {
        fputs(roles ? "\nRoles (started by kfarm server and kfarm agent):\n" : "Commands:\n", f);
        for (const struct cmd *k = cmd_table; k->name; k++) {
            if (!!(k->flags & CMD_ROLE) == roles) {
                fprintf(f, "  %-14s %s\n", k->name, k->summary);
            }
        }
    }
    fputs("\nkfarm COMMAND --help explains a command and its options.\n", f);
}

int cmd_help(struct cmdctx *c, struct err *e) {
    if (c->argc < 2 || str_eq(c->argv[1], "--help") || str_eq(c->argv[1], "-h")) {
        print_overview(stdout);
        return 0;
    }
    const struct cmd *k = cmd_find(c->argv[1]);
    if (!k) {
        return err_set(e, ERR_USAGE, "unknown command \"%s\"; kfarm help lists them", c->argv[1]);
    }
    char help[] = "--help";
    char *argv[] = {c->argv[1], help, NULL};
    struct cmdctx sub = {2, argv, k};
    return k->run(&sub, e);
}

int cmd_version(struct cmdctx *c, struct err *e) {
    if (opt_parse(c, (const struct opt[]){{NULL, OPT_STR, NULL, NULL, NULL}}, NULL, NULL, e) < 0) {
        return -(int)e->code;
    }
    printf("kfarm %s (Kubernetes API %s)\n", KF_VERSION, KF_KUBE_VERSION);
    return 0;
}

int main(int argc, char **argv) {
    struct err e = ERR_INIT;
    /* As PID 1 of an initrd the program is started as /init, without arguments of ours. */
    char agent_name[] = "agent";
    char *pid1_argv[] = {agent_name, NULL};
    signal(SIGPIPE, SIG_IGN);
    umask(022);
    struct cmdctx c = {argc - 1, argv + 1, NULL};
    if (getpid() == 1 && argc > 0 && span_ends(span_str(argv[0]), "init")) {
        c.argc = 1;
        c.argv = pid1_argv;
    } else if (argc < 2) {
        print_overview(stderr);
        return err_exit(ERR_USAGE);
    }
    const char *name = c.argv[0];
    if (str_eq(name, "-h") || str_eq(name, "--help")) {
        name = "help";
        c.argc = 1;
    } else if (str_eq(name, "-v") || str_eq(name, "--version")) {
        name = "version";
        c.argc = 1;
    }
    c.cmd = cmd_find(name);
    if (!c.cmd) {
        fprintf(stderr, "kfarm: unknown command \"%s\"; kfarm help lists them\n", name);
        return err_exit(ERR_USAGE);
    }
    int rc = c.cmd->run(&c, &e);
    if (rc < 0) {
        fprintf(stderr, "kfarm %s: %s\n", c.cmd->name,
                e.code ? e.msg : err_name((enum err_code) - rc));
        return err_exit((enum err_code) - rc);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
