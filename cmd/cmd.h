/* cmd — subcommands: one row in commands.c, one file per subcommand: options, then one call into a package.
 *
 * Options: --name value, --name=value, booleans --name / --name=false, lists repeat or use commas.
 * Precedence: flag > environment KFARM_<NAME> > config file (same key names) > default.
 * Errors: USAGE for anything the caller typed wrong; main() maps codes to exit status.
 */
#ifndef KF_CMD_H
#define KF_CMD_H

#include "internal/base/buf.h"

struct cmdctx {
    int argc;
    char **argv; /* argv[0] is the subcommand's name */
    const struct cmd *cmd;
};

enum cmd_flags {
    CMD_ROLE = 1u << 0,    /* started by the supervisor, not by a person */
    CMD_ETCD_ENV = 1u << 1 /* ETCD_<NAME> counts as KFARM_<NAME> does */
};

struct cmd {
    const char *name, *args, *summary;
    int (*run)(struct cmdctx *c, struct err *e);
    unsigned flags;
};

enum opt_kind { OPT_STR, OPT_BOOL, OPT_I64, OPT_LIST };
enum { OPT_LIST_MAX = 64 };
struct opt_list {
    const char *v[OPT_LIST_MAX];
    size_t n;
};
struct opt {
    const char *name; /* NULL ends the table */
    enum opt_kind kind;
    void *dst; /* const char **, bool *, int64_t *, struct opt_list * */
    const char *arg;
    const char *help; /* NULL: accepted, without effect */
};

/* Parses; positionals go to ret_pos (may be NULL: none allowed). Prints the help text and exits 0 on -h/--help.
 * config_path: a YAML file of option names that may be missing, unlike one that --config names; NULL: none. The strings live until exit. */
NODISCARD int opt_parse(struct cmdctx *c, const struct opt *opts, struct opt_list *ret_pos, const char *config_path,
                        struct err *e);

/* One value out of a document, for commands with a configuration file of their own. NOT_FOUND (without text): no such
 * option. */
struct json;
NODISCARD int opt_set(const struct opt *opts, const char *name, const struct json *v, const char *path, struct err *e);

extern const struct cmd cmd_table[];
const struct cmd *cmd_find(const char *name);

#endif
