/* Private to dhcp: the lease table behind the server.
 *
 * Every lease is in by_ip and in one list of its subnet (or of `orphans` when no subnet covers it any more); the lease
 * that a machine holds or last held on a subnet is also in by_hw. Within a list leases are ordered by `until_ns`, so running
 * out is a walk from the front. A subnet has one duration per state, so what is added belongs at the end; the exceptions
 * walk back from there: a declared address has a shorter quarantine. A new configuration may bring a shorter lease: then
 * that walk would pass every lease there is, so the bound ones wait for their end in a list of their own. */
#ifndef KF_DHCP_INT_H
#define KF_DHCP_INT_H

#include "internal/dhcp/dhcp.h"

struct dhcp_pool {
    struct dhcp_subnet cfg;
    uint64_t *taken; /* one bit per address of the range: a lease record exists */
    size_t n_addrs;
    struct list leases[DHCP_STATE_MAX_];
    struct list bound_before; /* BOUND since before the last dhcp_server_configure and not renewed */
};

struct dhcp_complaint { /* DECLINEs of one client, by hash of its address */
    uint64_t since_ns;
    unsigned n;
};

struct dhcp_server {
    const struct dhcp_ops *ops;
    void *ctx;
    size_t max_leases;
    struct dhcp_pool *pools;
    size_t n_pools;
    struct map by_ip, by_hw;
    struct list orphans;
    size_t count[DHCP_STATE_MAX_];
    struct dhcp_complaint complaints[256];
};

struct dhcp_pool *dhcp_pool_of(const struct dhcp_server *s, uint32_t ip); /* the subnet that covers ip, or NULL */
struct dhcp_lease *dhcp_lease_at(const struct dhcp_server *s, uint32_t ip);
struct dhcp_lease *dhcp_lease_by_hw(const struct dhcp_server *s, const struct dhcp_pool *p, struct dhcp_hw hw);
/* Makes `hw` the owner of `ip` (state FREE unless it owned it already); NULL when the table is full. */
struct dhcp_lease *dhcp_lease_take(struct dhcp_server *s, uint32_t ip, struct dhcp_hw hw);
void dhcp_lease_move(struct dhcp_server *s, struct dhcp_lease *l, enum dhcp_state to, uint64_t until_ns);
/* The owner no longer gets this lease back (it was declined). */
void dhcp_lease_disown(struct dhcp_server *s, struct dhcp_lease *l);
/* Leases of the pool that have run out become FREE. */
void dhcp_pool_expire(struct dhcp_server *s, struct dhcp_pool *p, uint64_t now_ns);
/* First address of the range at or after a position derived from hw that has no record at all, for which ok() holds;
 * 0 when there is none. */
uint32_t dhcp_pool_unused(const struct dhcp_pool *p, struct dhcp_hw hw, bool (*ok)(void *ctx, uint32_t ip), void *ctx);

#endif
