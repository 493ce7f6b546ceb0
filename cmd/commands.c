#include "cmd/cmd.h"

#define CMD(id) int cmd_##id(struct cmdctx *c, struct err *e);
CMD(server)
CMD(kubeconfig)
CMD(status)
CMD(image)
CMD(store)
CMD(agent)
CMD(version)
CMD(help)
CMD(apiserver)
CMD(controllers)
CMD(farm)
CMD(hostlet)
CMD(netboot)
CMD(keyd)
CMD(front)
CMD(kubelet)
CMD(proxy)
CMD(pause)
#undef CMD

/* In the order of the help. */
const struct cmd cmd_table[] = {
    {"server", "", "make this machine a host: admin cluster, tenants, boot service", cmd_server, 0},
    {"kubeconfig", "TENANT", "print the kubeconfig of a tenant", cmd_kubeconfig, 0},
    {"status", "", "hosts, tenants, control planes and nodes on one screen", cmd_status, 0},
    {"image", "build | ls | rm NAME", "make and list the images that nodes boot", cmd_image, 0},
    {"store", "[check | restore FILE]", "the etcd-compatible store as a process of its own",
     cmd_store, CMD_ETCD_ENV},
    {"agent", "", "first process of a network-booted node", cmd_agent, 0},
    {"version", "", "print the version", cmd_version, 0},
    {"help", "[COMMAND]", "list the commands or explain one", cmd_help, 0},
    {"apiserver", "", "the Kubernetes API of one cluster, with its store", cmd_apiserver, CMD_ROLE},
    {"controllers", "", "controller loops and the scheduler of one cluster", cmd_controllers,
     CMD_ROLE},
    {"farm", "", "turns Tenants into running clusters", cmd_farm, CMD_ROLE},
    {"hostlet", "", "kubelet of a host: runs control planes as processes", cmd_hostlet, CMD_ROLE},
    {"netboot", "", "boot service: DHCP, TFTP, HTTP, boot documents", cmd_netboot, CMD_ROLE},
    {"keyd", "", "holds the private keys and signs", cmd_keyd, CMD_ROLE},
    {"front", "", "one port for the API of every cluster", cmd_front, CMD_ROLE},
    {"kubelet", "", "runs the pods bound to a node", cmd_kubelet, CMD_ROLE},
    {"proxy", "", "makes Services reachable from a node", cmd_proxy, CMD_ROLE},
    {"pause", "", "first process of a pod: waits", cmd_pause, CMD_ROLE},
    {NULL, NULL, NULL, NULL, 0},
};

const struct cmd *cmd_find(const char *name) {
    for (const struct cmd *k = cmd_table; k->name; k++) {
        if (str_eq(k->name, name)) {
            return k;
        }
    }
    return NULL;
}
