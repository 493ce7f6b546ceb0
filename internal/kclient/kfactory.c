#include "internal/kclient/kclient_int.h"

#include <stdlib.h>

struct shared {
    struct shared *next;
    struct kinformer *i;
    struct kinformer_opts o;
    char *text; /* group/version/resource/ns?selectors: what makes two the same */
};

struct kfactory {
    struct kclient *c;
    struct shared *all;
};

struct kfactory *kfactory_new(struct kclient *c) {
    struct kfactory *f = new_zero(struct kfactory);
    f->c = c;
    return f;
}

void kfactory_free(struct kfactory *f) {
    while (f && f->all) {
        struct shared *s = f->all;
        f->all = s->next;
        kinformer_stop(s->i);
        free(s->text);
        free(s);
    }
    free(f);
}

struct kclient *kfactory_client(const struct kfactory *f) {
    return f->c;
}

struct kinformer *kfactory_get(struct kfactory *f, const struct kinformer_opts *o) {
    AUTO_FREE char *text =
        str_fmt("%s/%s/%s/%s?%s&%s&%d", o->ref.group, o->ref.version, o->ref.resource,
                o->ref.ns ? o->ref.ns : "", o->label_selector ? o->label_selector : "",
                o->field_selector ? o->field_selector : "", o->metadata_only);
    for (struct shared *s = f->all; s; s = s->next) {
        if (str_eq(s->text, text)) {
            return s->i;
        }
    }
    struct shared *s = new_zero(struct shared);
    s->o = *o;
    s->o.on_change = NULL;
    s->o.on_synced = NULL;
    s->o.on_list = NULL;
    s->text = TAKE(text);
    s->i = kinformer_start(f->c, &s->o);
    s->next = f->all;
    f->all = s;
    return s->i;
}

struct kinformer *kfactory_all(struct kfactory *f, const char *group, const char *version,
                               const char *resource) {
    struct kinformer_opts o = {.ref = {.group = group, .version = version, .resource = resource}};
    return kfactory_get(f, &o);
}

struct kinformer *kfactory_find(const struct kfactory *f, const char *group, const char *resource) {
    for (struct shared *s = f->all; s; s = s->next) {
        if (str_eq(s->o.ref.group, group) && str_eq(s->o.ref.resource, resource) && !s->o.ref.ns &&
            !s->o.label_selector && !s->o.field_selector) {
            return s->i;
        }
    }
    return NULL;
}
