#include "cmd/cmd.h"

#include "internal/sys/sys.h"
#include "internal/yaml/yaml.h"

#include <stdio.h>
#include <stdlib.h>

enum { LIM_CONFIG = 1 << 20, LIM_OPTS = 160, ENV_NAME = 80 };

static const struct opt *find(const struct opt *opts, struct span name) {
    for (const struct opt *o = opts; o->name; o++) {
        if (span_eq_str(name, o->name)) {
            return o;
        }
    }
    return NULL;
}

/* "PREFIX" and the option's name as the environment has it: KFARM_LOG_LEVEL. */
static void env_name(const char *prefix, const char *name, char var[ENV_NAME]) {
    IGNORE_ERR(str_put(var, ENV_NAME, "%s%s", prefix, name), "the longest name fits");
    for (char *s = var; *s; s++) {
        *s = *s == '-' ? '_' : *s >= 'a' && *s <= 'z' ? (char)(*s - 32) : *s;
    }
}

static void print_opt(const struct opt *o) {
    char left[64];
    (void)str_put(left, sizeof(left), "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    printf("  %-32s %s", left, o->help);
    if (o->kind == OPT_STR && *(const char **)o->dst && **(const char **)o->dst) {
        printf(" (default %s)", *(const char **)o->dst);
    } else if (o->kind == OPT_I64 && *(int64_t *)o->dst > 0) { /* -1: no descriptor */
        printf(" (default %lld)", (long long)*(int64_t *)o->dst);
    } else if (o->kind == OPT_BOOL && *(bool *)o->dst) {
        fputs(" (default true)", stdout);
    }
    putchar('\n');
}

static void print_help(const struct cmdctx *c, const struct opt *opts, const char *config_path) {
    printf("Usage: kfarm %s%s%s%s\n\n%s.\n", c->cmd->name, opts->name ? " [OPTIONS]" : "",
           *c->cmd->args ? " " : "", c->cmd->args, c->cmd->summary);
    if (!opts->name) {
        return;
    }
    fputs("\nOptions:\n", stdout);
    size_t column = 0;
    for (const struct opt *o = opts; o->name; o++) {
        if (o->help) {
            print_opt(o);
        }
    }
    for (const struct opt *o = opts; o->name; o++) {
        if (!o->help) {
            bool first = !column, wrap = column + strlen(o->name) > 96;
            fputs(first ? "\nAccepted, without effect:\n " : wrap ? "\n " : "", stdout);
            column = (first || wrap ? 1 : column) + (size_t)printf(" --%s", o->name);
        }
    }
    char var[ENV_NAME];
    const struct opt *example = find(opts, SPAN_LIT("log-level"));
    example = example ? example : opts;
    env_name("", example->name, var);
    printf("%s\nAn option may also stand in the environment (--%s as KFARM_%s%s%s)",
           column ? "\n" : "", example->name, var, c->cmd->flags & CMD_ETCD_ENV ? " or ETCD_" : "",
           c->cmd->flags & CMD_ETCD_ENV ? var : "");
    printf("%s%s.\n", config_path ? ", or under its name in " : "", config_path ? config_path : "");
}

static int parse_bool(const char *v, bool *ret) {
    bool yes = str_eq(v, "true") || str_eq(v, "1") || str_eq(v, "yes");
    if (!yes && !str_eq(v, "false") && !str_eq(v, "0") && !str_eq(v, "no")) {
        return -ERR_USAGE;
    }
    *ret = yes;
    return 0;
}

/* Values from argv and the environment live as long as the process; list members are split into copies. */
static int set(const struct opt *o, const char *v, const char *where, struct err *e) {
    switch (o->kind) {
    case OPT_STR: *(const char **)o->dst = v; return 0;
    case OPT_BOOL:
        if (parse_bool(v, o->dst) < 0) {
            return err_set(e, ERR_USAGE, "%s%s: \"%s\" is not true or false", where, o->name, v);
        }
        return 0;
    case OPT_I64:
        if (span_to_i64(span_str(v), INT64_MIN, INT64_MAX, o->dst) < 0) {
            return err_set(e, ERR_USAGE, "%s%s: \"%s\" is not a number", where, o->name, v);
        }
        return 0;
    case OPT_LIST: {
        struct opt_list *l = o->dst;
        struct span rest = span_str(v), one;
        while (span_next(&rest, ',', &one)) {
            if (l->n == OPT_LIST_MAX) {
                return err_set(e, ERR_USAGE, "%s%s: more than %d values", where, o->name,
                               OPT_LIST_MAX);
            }
            if (one.n) {
                l->v[l->n++] = str_dupn(one.p, one.n);
            }
        }
        return 0;
    }
    }
    return -ERR_INTERNAL;
}

static int from_env(const struct opt *opts, const char *prefix, bool *is_set, struct err *e) {
    for (size_t i = 0; opts[i].name; i++) {
        char var[ENV_NAME], where[ENV_NAME + 32];
        env_name(prefix, opts[i].name, var);
        const char *v = is_set[i] ? NULL : getenv(var);
        if (v) {
            (void)str_put(where, sizeof(where), "environment: %s: --", var);
            int rc = set(&opts[i], v, where, e);
            if (rc < 0) {
                return rc;
            }
            is_set[i] = true;
        }
    }
    return 0;
}

static int set_json(const struct opt *o, const struct json *v, const char *path, struct err *e) {
    char num[32], where[512];
    IGNORE_ERR(str_put(where, sizeof(where), "%.500s: ", path), "a long path is told in part");
    if (json_is_arr(v) && o->kind == OPT_LIST) {
        JSON_EACH(it, x, v) {
            int rc = json_str(x) ? set(o, str_dup(json_str(x)), where, e)
                                 : err_set(e, ERR_USAGE, "%s: %s: list members must be strings",
                                           path, o->name);
            if (rc < 0) {
                return rc;
            }
        }
        return 0;
    }
    if (json_is_int(v)) {
        (void)str_put(num, sizeof(num), "%lld", (long long)json_i64(v, 0));
        return set(o, str_dup(num), where, e);
    }
    if (json_kind(v) == JSON_BOOL) {
        return set(o, json_bool(v, false) ? "true" : "false", where, e);
    }
    if (!json_str(v)) {
        return err_set(e, ERR_USAGE, "%s: %s: unexpected kind of value", path, o->name);
    }
    return set(o, str_dup(json_str(v)), where, e);
}

int opt_set(const struct opt *opts, const char *name, const struct json *v, const char *path,
            struct err *e) {
    const struct opt *o = find(opts, span_str(name));
    return o ? set_json(o, v, path, e) : -ERR_NOT_FOUND;
}

static int from_file(const struct opt *opts, bool *is_set, const char *path, bool is_default,
                     struct err *e) {
    AUTO(buf) struct buf b = BUF_INIT(LIM_CONFIG);
    int rc = sys_file_read(AT_FDCWD, path, &b, e);
    if (rc == -ERR_NOT_FOUND && is_default) {
        err_reset(e);
        return 0;
    }
    AUTO(json_docp) struct json_doc *d = NULL;
    if (rc < 0 || (rc = yaml_parse(buf_view(&b), &d, e)) < 0) {
        return rc < 0 ? err_wrap(e, "config file %s", path) : rc;
    }
    if (json_root(d) && !json_is_null(json_root(d)) && !json_is_obj(json_root(d))) {
        return err_set(e, ERR_USAGE, "config file %s: must be a map of option names", path);
    }
    JSON_EACH_KV(it, k, v, json_root(d)) {
        const struct opt *o = find(opts, span_str(k));
        if (!o) {
            return err_set(e, ERR_USAGE, "config file %s: unknown key \"%s\"", path, k);
        }
        if (!is_set[o - opts] && (rc = set_json(o, v, path, e)) < 0) {
            return rc;
        }
    }
    return 0;
}

int opt_parse(struct cmdctx *c, const struct opt *opts, struct opt_list *ret_pos,
              const char *config_path, struct err *e) {
    bool is_set[LIM_OPTS] = {false};
    bool only_pos = false;
    int rc;
    size_t n = 0;
    while (opts[n].name) {
        n++;
    }
    CHECK(n <= LIM_OPTS);
    for (int i = 1; i < c->argc; i++) {
        const char *a = c->argv[i];
        if (only_pos || a[0] != '-' || !a[1]) {
            if (!ret_pos || ret_pos->n == OPT_LIST_MAX) {
                return err_set(e, ERR_USAGE, "unexpected argument \"%s\"", a);
            }
            ret_pos->v[ret_pos->n++] = a;
            continue;
        }
        if (str_eq(a, "--")) {
            only_pos = true;
            continue;
        }
        if (str_eq(a, "-h") || str_eq(a, "--help")) {
            print_help(c, opts, config_path);
            exit(0);
        }
        struct span s = span_str(a), name;
        if (!span_starts(s, "--")) {
            return err_set(e, ERR_USAGE, "unknown option %s; kfarm %s --help lists them", a,
                           c->cmd->name);
        }
        IGNORE_ERR(span_skip(&s, 2), "prefix checked");
        bool has_value = span_index(s, '=') >= 0;
        span_next(&s, '=', &name);
        const struct opt *o = find(opts, name);
        if (!o) {
            return err_set(e, ERR_USAGE, "unknown option --%.*s; kfarm %s --help lists them",
                           SPAN_FMT(name), c->cmd->name);
        }
        const char *v = has_value ? (const char *)s.p : o->kind == OPT_BOOL ? "true" : c->argv[++i];
        if (!v) {
            return err_set(e, ERR_USAGE, "option --%s needs a value", o->name);
        }
        if ((rc = set(o, v, "--", e)) < 0) {
            return rc;
        }
        is_set[o - opts] = true;
    }
    if ((rc = from_env(opts, "KFARM_", is_set, e)) < 0 ||
        (c->cmd->flags & CMD_ETCD_ENV && (rc = from_env(opts, "ETCD_", is_set, e)) < 0)) {
        return rc;
    }
    /* --config FILE, when the command has that option, replaces the default path. */
    const struct opt *cfg = find(opts, SPAN_LIT("config"));
    const char *given = cfg ? *(const char **)cfg->dst : NULL;
    if (given) {
        return from_file(opts, is_set, given, false, e);
    }
    return config_path ? from_file(opts, is_set, config_path, true, e) : 0;
}
