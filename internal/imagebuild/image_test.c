#include "internal/imagebuild/imagebuild_int.h"
#include "internal/t/t.h"

#include <stdlib.h>

TEST(imagebuild, glob) {
    static const struct {
        const char *pattern, *path;
        bool matches;
    } rows[] = {
        {"usr/bin/x", "usr/bin/x", true},
        {"usr/bin/*", "usr/bin/x", true},
        {"usr/bin/*", "usr/bin/x/y", false},
        {"usr/**", "usr/bin/x/y", true},
        {"*/x", "usr/bin/x", false},
        {"**/x", "usr/bin/x", true},
        {"usr/lib/*.so", "usr/lib/a.so", true},
        {"usr/lib/*.so", "usr/lib/a.so.1", false},
        {"usr/**/z.ko", "usr/a/b/z.ko", true},
        {"", "a", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        ASSERT_EQ(rows[i].matches, image_glob(rows[i].pattern, rows[i].path));
    }
}

TEST(imagebuild, rules_take_drop_link_and_sort) {
    struct image_tree all = IMAGE_TREE_INIT, to = IMAGE_TREE_INIT;
    struct err e = ERR_INIT;
    ASSERT_EQ(0, image_tree_put_file(&all, "usr/bin/a", 0755, SPAN_LIT("A")));
    ASSERT_EQ(0, image_tree_put_file(&all, "usr/share/z/one", 0644, SPAN_LIT("1")));
    ASSERT_EQ(0, image_tree_put_file(&all, "usr/share/z/two", 0644, SPAN_LIT("2")));
    ASSERT_OK(
        image_select(
            &to, &all,
            SPAN_LIT(
                "# c\nusr/bin/a\nusr/share/**\n!usr/share/z/two\nlink bin usr/bin\ndir tmp 1777\n"),
            &e),
        &e);
    ASSERT_EQ(0, image_tree_sort(&to));
    static const char *const want[] = {"bin",       "tmp",       "usr",         "usr/bin",
                                       "usr/bin/a", "usr/share", "usr/share/z", "usr/share/z/one"};
    ASSERT_EQ(ARRAY_LEN(want), to.n);
    for (size_t i = 0; i < to.n; i++) {
        ASSERT_STREQ(want[i], to.v[i]->path);
    }
    ASSERT_EQ(01777, image_tree_get(&to, "tmp")->mode);
    ASSERT_ERR(-ERR_INVALID, image_select(&to, &all, SPAN_LIT("usr/bin/missing\n"), &e));
    image_tree_fini(&all);
    image_tree_fini(&to);
}

TEST(imagebuild, packages_are_merged_into_usr) {
    AUTO(buf) struct buf tar = BUF_INIT(1 << 16);
    struct image_tree t = IMAGE_TREE_INIT;
    struct err e = ERR_INIT;
    struct tar_entry in[] = {
        {.type = TAR_FILE, .name = "./bin/x", .link = "", .mode = 0755, .data = SPAN_LIT("x")},
        {.type = TAR_HARDLINK, .name = "./bin/y", .link = "./bin/x"},
        {.type = TAR_FILE, .name = "./lib64/ld.so", .link = "", .mode = 0755},
        {.type = TAR_FILE, .name = "./etc/binary", .link = "", .mode = 0644},
    };
    for (size_t i = 0; i < ARRAY_LEN(in); i++) {
        ASSERT_EQ(0, tar_add(&tar, &in[i]));
    }
    tar_end(&tar);
    ASSERT_OK(image_tree_load(&t, buf_view(&tar), &e), &e);
    ASSERT(image_tree_get(&t, "usr/bin/x") && image_tree_get(&t, "usr/lib64/ld.so") &&
           image_tree_get(&t, "etc/binary"));
    ASSERT_SPAN("x", image_tree_get(&t, "usr/bin/y")->data);
    image_tree_fini(&t);
}

TEST(imagebuild, oci_layout_is_deterministic) {
    static const char *const entry[] = {"/kfarm", "pause"};
    struct buf out[2] = {BUF_INIT(1 << 20), BUF_INIT(1 << 20)};
    struct err e = ERR_INIT;
    for (size_t i = 0; i < 2; i++) {
        struct image_tree layer = IMAGE_TREE_INIT;
        ASSERT_EQ(0, image_tree_put_file(&layer, i ? "b" : "a", 0755, SPAN_LIT("same")));
        ASSERT_EQ(0, image_tree_put_file(&layer, i ? "a" : "b", 0755, SPAN_LIT("same")));
        ASSERT_OK(image_oci_write(&(struct image_oci){"x.test/y:1", entry, 2, ""}, &layer, 7,
                                  &out[i], &e),
                  &e);
        image_tree_fini(&layer);
    }
    ASSERT(span_eq(buf_view(&out[0]), buf_view(&out[1])));
    struct tar_reader r;
    struct tar_entry t;
    size_t n = 0;
    tar_reader_init(&r, buf_view(&out[0]));
    for (; tar_next(&r, &t) == 0; n++) {
        ASSERT_EQ(7, t.mtime);
    }
    ASSERT_EQ(5, n); /* layer, config, manifest, index.json, oci-layout */
    tar_reader_fini(&r);
    buf_fini(&out[0]);
    buf_fini(&out[1]);
}

TEST(imagebuild, elf_of_this_program) {
    AUTO(buf) struct buf self = BUF_INIT(256u << 20);
    struct span s;
    ASSERT_EQ(0, t_read_file("/proc/self/exe", &self));
    ASSERT_EQ(0, image_elf_section(buf_view(&self), ".text", &s));
    ASSERT(s.n > 1000);
    ASSERT_ERR(-ERR_NOT_FOUND, image_elf_section(buf_view(&self), ".nothing", &s));
    ASSERT_ERR(-ERR_INVALID, image_elf_section(span_of(self.p, 100), ".text", &s));
}
