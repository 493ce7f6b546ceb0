#include "internal/netboot/nb_int.h"

#include "internal/netboot/nb_test.h"
#include "internal/t/t.h"

#include <stdlib.h>

/* ---- names ---- */

TEST(netboot, names_are_cleaned_or_refused) {
    static const struct {
        const char *name, *clean; /* NULL: refused */
    } rows[] = {
        {"snponly.efi", "snponly.efi"},
        {"/snponly.efi", "snponly.efi"},
        {"//grubx64.efi", "grubx64.efi"},
        {"./a//b/./c/", "a/b/c"},
        {"\\efi\\boot\\x.efi", "efi/boot/x.efi"},
        {"a..b/..c/c..", "a..b/..c/c.."},
        {"..", NULL},
        {"a/../b", NULL},
        {"a\\..\\b", NULL},
        {"a/..", NULL},
        {"", NULL},
        {"/", NULL},
        {"././", NULL},
        {"a\nb", NULL},
        {"a\x7f", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        AUTO(buf) struct buf b = BUF_INIT(LIM_TFTP_NAME);
        int rc = nb_path_clean(span_str(rows[i].name), &b);
        if ((rc < 0) != !rows[i].clean || (rows[i].clean && !str_eq(buf_cstr(&b), rows[i].clean))) {
            fail_msg("\"%s\": %d \"%s\"", rows[i].name, rc, buf_cstr(&b));
        }
    }
}

TEST(netboot, property_clean_names_stay_below) {
    t_property("names", nb_prop_name, 5000, 60);
}

/* ---- plans ---- */

#define NET                                \
    "{\"name\":\"n\",\"cidr\":\"10.0.0.0/" \
    "24\",\"range\":{\"start\":\"10.0.0.10\",\"end\":\"10.0.0.20\"}}"
#define NODE(more) "{\"name\":\"a\",\"macs\":[\"02:00:00:00:00:01\"]" more "}"

#define UUID(digit) "\"uuid\":\"00112233-4455-6677-8899-aabbccddeef" digit "\""

TEST(netboot, plans_as_json) {
    static const struct {
        const char *text, *why; /* NULL: accepted */
    } rows[] = {
        {"{}", NULL},
        {"[]", "not an object"},
        {"{\"networks\":5}", "networks: not a list"},
        {"{\"nodes\":{}}", "nodes: not a list"},
        {"{\"networks\":[" NET "],\"nodes\":[{\"name\":\"x\",\"macs\":\"52:54:00:00:00:01\"}]}",
         "nodes[0].macs: not a list"},
        {"{\"networks\":[{\"name\":\"n\",\"cidr\":\"10.0.0.0/24\",\"dns\":\"10.0.0.1\"}]}",
         "networks[0].dns: not a list"},
        {"{\"networks\":[{\"name\":\"n\",\"cidr\":\"10.0.0.0/24\",\"options\":[42]}]}",
         "networks[0].options: not an object"},
        {"{\"networks\":[" NET "],\"nodes\":[" NODE("") "]}", NULL},
        {"{\"networks\":[" NET "],\"nodes\":[" NODE(",\"ip\":\"10.0.0.5\"") "]}", NULL},
        {"{\"networks\":[" NET "," NET "]}", "overlaps network n"},
        {"{\"networks\":[{\"name\":\"n\",\"cidr\":\"10.0.0.1/24\"}]}", "host bits"},
        {"{\"networks\":[{\"name\":\"n\",\"cidr\":\"10.0.0.0/33\"}]}", "cidr"},
        {"{\"networks\":[{\"name\":\"n\",\"cidr\":\"10.0.0.0/24\",\"colour\":1}]}",
         "networks[0].colour: unknown member"},
        {"{\"networks\":[{\"name\":\"n\",\"cidr\":\"10.0.0.0/24\",\"options\":{\"26\":\"big\"}}]}",
         "options"},
        {"{\"nodes\":[" NODE(",\"ip\":\"10.0.0.5\"") "]}", "is in no network"},
        {"{\"networks\":[" NET "],\"nodes\":[" NODE(",\"ip\":\"10.0.0.255\"") "]}",
         "taken by network n"},
        {"{\"nodes\":[" NODE("") "," NODE("") "]}", "belongs to node a already"},
        {"{\"nodes\":[" NODE(",\"image\":\"none\"") "]}", "nodes[0].image: no such image"},
        {"{\"nodes\":[{\"name\":\"A\",\"macs\":[\"02:00:00:00:00:01\"]}]}", "not a DNS name"},
        {"{\"nodes\":[{\"name\":\"a\",\"macs\":[]}]}", "MAC addresses"},
        {"{\"nodes\":[{\"name\":\"a\"," UUID("1") "}]}", NULL},
        {"{\"nodes\":[{\"name\":\"a\"," UUID("1") "},{\"name\":\"b\"," UUID("1") "}]}",
         "node b: the UUID belongs to node a already"},
        {"{\"nodes\":[{\"name\":\"a\"," UUID("g") "}]}", "nodes[0].uuid: not a UUID"},
        {"{\"nodes\":[{\"name\":\"a\",\"uuid\":\"00000000-0000-0000-0000-000000000000\"}]}",
         "not a UUID that tells machines apart"},
        {"{\"approved\":[\"02:00:00:00:00:01\"]}", NULL},
        {"{\"approved\":[\"me\"]}", "approved[0]: not a MAC address"},
        {"{\"nodes\":[" NODE(",\"args\":\"x\\nboot\"") "]}", "no boot script can carry"},
        {"{\"nodes\":[" NODE(",\"args\":\"${evil}\"") "]}", "no boot script can carry"},
        {"{\"images\":[{\"name\":\"i\",\"kernel\":\"/etc/passwd\"}]}", "plain paths"},
        {"{\"images\":[{\"name\":\"i\",\"kernel\":\"a/../b\"}]}", "plain paths"},
        {"{\"images\":[{\"name\":\"i\",\"kernel\":\"a b\"}]}", "plain paths"},
        {"{\"images\":[{\"name\":\"i\",\"kernel\":\"k\"},{\"name\":\"i\",\"kernel\":\"k\"}]}",
         "given twice"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct nb_plan *p = NULL;
        struct err e = ERR_INIT;
        int rc = nb_plan_from_json(span_str(rows[i].text), &p, &e);
        if ((rc < 0) != (rows[i].why != NULL) || (rows[i].why && !strstr(e.msg, rows[i].why))) {
            fail_msg("%s: %d %s", rows[i].text, rc, e.msg);
        }
        nb_plan_free(p);
    }
}

TEST(netboot, failed_add_leaves_the_plan_as_it_was) {
    struct nb_plan *p = nb_plan_new();
    struct err e = ERR_INIT;
    struct nb_node n = {.host = {.name = "a"}, .n_macs = 1, .macs = {{6, {2, 0, 0, 0, 0, 1}}}};
    ASSERT_OK(nb_plan_add_node(p, &n, &e), &e);
    n.host.name = "b";
    n.n_macs = 2;
    n.macs[0].b[5] = 2;
    n.macs[1] = (struct dhcp_hw){6, {2, 0, 0, 0, 0, 1}};
    ASSERT_ERR(-ERR_EXISTS, nb_plan_add_node(p, &n, &e));
    ASSERT_EQ(1, p->n_nodes);
    ASSERT_NULL(nb_plan_node_by_hw(p, n.macs[0]));
    nb_plan_free(p);
}

/* ---- scripts ---- */

static struct netboot *with_plan(const char *text) {
    struct netboot *nb = new_zero(struct netboot);
    struct err e = ERR_INIT;
    nb->o.http_port = 8069;
    nb->o.https_port = 8070;
    memcpy(nb->ca_pin, "aa", 3);
    ASSERT_OK(nb_plan_from_json(span_str(text), &nb->plan, &e), &e);
    return nb;
}

static const struct dhcp_hw mac_1 = {6, {2, 0, 0, 0, 0, 1}}, mac_2 = {6, {2, 0, 0, 0, 0, 2}};

TEST(netboot, ipxe_scripts) {
    struct netboot *nb =
        with_plan("{\"images\":[{\"name\":\"i\",\"kernel\":\"i/k\",\"initrd\":\"i/sub/"
                  "r.img\",\"args\":\"quiet\"}],"
                  "\"networks\":[" NET
                  "],\"nodes\":[" NODE(",\"image\":\"i\",\"args\":\"console=ttyS1\"") "]}");
    AUTO(buf) struct buf b = BUF_INIT(LIM_NB_SCRIPT);
    ASSERT_ERR(0, nb_script_ipxe(nb, mac_1, 0x0a00000b, 0x0a000001, &b));
    ASSERT_STREQ("#!ipxe\n"
                 "echo kfarm: a boots i\n"
                 "imgfree\n"
                 "kernel http://10.0.0.1:8069/images/i/k initrd=r.img "
                 "kfarm.boot=https://10.0.0.1:8070 kfarm.ca=sha256:aa "
                 "BOOTIF=01-02-00-00-00-00-01 quiet console=ttyS1 || goto again\n"
                 "initrd http://10.0.0.1:8069/images/i/sub/r.img || goto again\n"
                 "boot || goto again\n"
                 ":again\n"
                 "sleep 5\n"
                 "chain --replace --autofree http://10.0.0.1:8069/boot/02-00-00-00-00-01.ipxe || "
                 "goto again\n",
                 buf_cstr(&b));
    buf_reset(&b);
    ASSERT_ERR(0, nb_script_ipxe(nb, mac_2, 0x0a00000b, 0x0a000001, &b));
    ASSERT(strstr(buf_cstr(&b), "nobody has declared 02-00-00-00-00-02") &&
           !strstr(buf_cstr(&b), "\nkernel"));
    nb_plan_free(nb->plan);
    auto_free_(&nb);
}

TEST(netboot, machines_of_the_catch_all_have_names_of_their_own) {
    char name[NB_NODE_NAME];
    const struct nb_node declared = {.host = {.name = "a"}, .n_macs = 1},
                         any = {.host = {.name = "spare"}};
    nb_node_name(&declared, mac_1, name);
    ASSERT_STREQ("a", name);
    nb_node_name(&any, mac_1, name);
    ASSERT_STREQ("spare-020000000001", name);
}

TEST(netboot, machines_are_known_by_the_uuid_of_their_firmware) {
    static const uint8_t sent[] = {0,    0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
                                   0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xf1},
                         plain[] = {0,    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                    0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xf1};
    struct netboot *nb = with_plan("{\"nodes\":[" NODE("") ",{\"name\":\"b\"," UUID("1") "}]}");
    char name[NB_NODE_NAME];
    ASSERT_NULL(nb_node_of(nb, mac_2));
    nb_machine_learn(nb, mac_2, span_of(plain, 16)); /* cut short */
    ASSERT_NULL(nb_node_of(nb, mac_2));
    nb_machine_learn(nb, mac_2, span_of(sent, sizeof(sent)));
    ASSERT_STREQ("b", nb_node_of(nb, mac_2)->host.name);
    nb_node_name(nb_node_of(nb, mac_2), mac_2, name);
    ASSERT_STREQ("b", name);
    nb_machine_learn(nb, mac_1,
                     span_of(plain, sizeof(plain))); /* declared by its address: stays that */
    ASSERT_STREQ("a", nb_node_of(nb, mac_1)->host.name);
    for (uint8_t i = 3; i < 100; i++) { /* so many NICs no machine has */
        nb_machine_learn(nb, (struct dhcp_hw){6, {2, 0, 0, 0, 0, i}},
                         span_of(plain, sizeof(plain)));
    }
    ASSERT_EQ(LIM_NB_MACS, nb->machines.n);
    struct map_iter it = {0};
    struct map_entry *en;
    while (map_next(&nb->machines, &it, &en)) {
        free(en->value);
    }
    map_fini(&nb->machines);
    nb_plan_free(nb->plan);
    auto_free_(&nb);
}

TEST(netboot, approval_of_one_nic_is_that_of_the_machine) {
    struct netboot *nb = with_plan(
        "{\"networks\":[{\"name\":\"n\",\"cidr\":\"10.0.0.0/24\",\"catchAll\":{}}],"
        "\"nodes\":[{\"name\":\"a\",\"macs\":[\"02:00:00:00:00:01\",\"02:00:00:00:00:02\"]}],"
        "\"approved\":[\"02:00:00:00:00:02\",\"02:00:00:00:00:03\"]}");
    const struct nb_node *a = nb->plan->nodes[0], *any = nb->plan->networks[0].unknown;
    ASSERT(nb_plan_is_approved(nb->plan, a, mac_1));
    ASSERT(nb_plan_is_approved(nb->plan, any, (struct dhcp_hw){6, {2, 0, 0, 0, 0, 3}}));
    ASSERT(!nb_plan_is_approved(nb->plan, any, (struct dhcp_hw){6, {2, 0, 0, 0, 0, 4}}));
    nb_plan_free(nb->plan);
    auto_free_(&nb);
}
