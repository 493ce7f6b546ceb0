"""etcd's API v3 on the wire: its messages as tables, an encoder of dicts, a decoder that keeps every field in its order.

Answers are compared as they came: fields that a client would not see (their order, zeroes that are sent, fields that are
not known) make a difference too. grpcio carries the bytes."""

# number:name:kind, kind i (varint), p (packed varints), b (bytes), s (text) or a message; * repeated
MESSAGES = """
ResponseHeader 1:cluster_id:i 2:member_id:i 3:revision:i 4:raft_term:i
KeyValue 1:key:b 2:create_revision:i 3:mod_revision:i 4:version:i 5:value:b 6:lease:i
Event 1:type:i 2:kv:KeyValue 3:prev_kv:KeyValue
RangeRequest 1:key:b 2:range_end:b 3:limit:i 4:revision:i 5:sort_order:i 6:sort_target:i 7:serializable:i 8:keys_only:i 9:count_only:i 10:min_mod_revision:i 11:max_mod_revision:i 12:min_create_revision:i 13:max_create_revision:i
RangeResponse 1:header:ResponseHeader 2:kvs:*KeyValue 3:more:i 4:count:i
RangeStreamResponse 1:range_response:RangeResponse
PutRequest 1:key:b 2:value:b 3:lease:i 4:prev_kv:i 5:ignore_value:i 6:ignore_lease:i
PutResponse 1:header:ResponseHeader 2:prev_kv:KeyValue
DeleteRangeRequest 1:key:b 2:range_end:b 3:prev_kv:i
DeleteRangeResponse 1:header:ResponseHeader 2:deleted:i 3:prev_kvs:*KeyValue
RequestOp 1:request_range:RangeRequest 2:request_put:PutRequest 3:request_delete_range:DeleteRangeRequest 4:request_txn:TxnRequest
ResponseOp 1:response_range:RangeResponse 2:response_put:PutResponse 3:response_delete_range:DeleteRangeResponse 4:response_txn:TxnResponse
Compare 1:result:i 2:target:i 3:key:b 4:version:i 5:create_revision:i 6:mod_revision:i 7:value:b 8:lease:i 64:range_end:b
TxnRequest 1:compare:*Compare 2:success:*RequestOp 3:failure:*RequestOp
TxnResponse 1:header:ResponseHeader 2:succeeded:i 3:responses:*ResponseOp
CompactionRequest 1:revision:i 2:physical:i
HashKVRequest 1:revision:i
HashKVResponse 1:header:ResponseHeader 2:hash:i 3:compact_revision:i 4:hash_revision:i
HashResponse 1:header:ResponseHeader 2:hash:i
SnapshotResponse 1:header:ResponseHeader 2:remaining_bytes:i 3:blob:b 4:version:s
WatchRequest 1:create_request:WatchCreateRequest 2:cancel_request:WatchCancelRequest 3:progress_request:Empty
WatchCreateRequest 1:key:b 2:range_end:b 3:start_revision:i 4:progress_notify:i 5:filters:p 5:filters_unpacked:*i 6:prev_kv:i 7:watch_id:i 8:fragment:i
WatchCancelRequest 1:watch_id:i
WatchResponse 1:header:ResponseHeader 2:watch_id:i 3:created:i 4:canceled:i 5:compact_revision:i 6:cancel_reason:s 7:fragment:i 11:events:*Event
LeaseGrantRequest 1:TTL:i 2:ID:i
LeaseGrantResponse 1:header:ResponseHeader 2:ID:i 3:TTL:i 4:error:s
LeaseRevokeRequest 1:ID:i
LeaseKeepAliveRequest 1:ID:i
LeaseKeepAliveResponse 1:header:ResponseHeader 2:ID:i 3:TTL:i
LeaseTimeToLiveRequest 1:ID:i 2:keys:i
LeaseTimeToLiveResponse 1:header:ResponseHeader 2:ID:i 3:TTL:i 4:grantedTTL:i 5:keys:*b
LeaseStatus 1:ID:i
LeaseLeasesResponse 1:header:ResponseHeader 2:leases:*LeaseStatus
Member 1:ID:i 2:name:s 3:peerURLs:*s 4:clientURLs:*s 5:isLearner:i
MemberAddRequest 1:peerURLs:*s 2:isLearner:i
MemberAddResponse 1:header:ResponseHeader 2:member:Member 3:members:*Member
MemberRemoveRequest 1:ID:i
MemberUpdateRequest 1:ID:i 2:peerURLs:*s
MemberListRequest 1:linearizable:i
MemberPromoteRequest 1:ID:i
MembersResponse 1:header:ResponseHeader 2:members:*Member
MoveLeaderRequest 1:targetID:i
AlarmRequest 1:action:i 2:memberID:i 3:alarm:i
AlarmMember 1:memberID:i 2:alarm:i
AlarmResponse 1:header:ResponseHeader 2:alarms:*AlarmMember
DowngradeRequest 1:action:i 2:version:s
DowngradeResponse 1:header:ResponseHeader 2:version:s
StatusResponse 1:header:ResponseHeader 2:version:s 3:dbSize:i 4:leader:i 5:raftIndex:i 6:raftTerm:i 7:raftAppliedIndex:i 8:errors:*s 9:dbSizeInUse:i 10:isLearner:i
AuthStatusResponse 1:header:ResponseHeader 2:enabled:i 3:authRevision:i
NamePassword 1:name:s 2:password:s
AuthenticateResponse 1:header:ResponseHeader 2:token:s
UserAddOptions 1:no_password:i
UserAddRequest 1:name:s 2:password:s 3:options:UserAddOptions 4:hashedPassword:s
UserPasswordRequest 1:name:s 2:password:s 3:hashedPassword:s
NameRequest 1:name:s
RoleRequest 1:role:s
UserRoleRequest 1:user:s 2:role:s
UserRoleRevokeRequest 1:name:s 2:role:s
UserGetResponse 1:header:ResponseHeader 2:roles:*s
RoleGetResponse 1:header:ResponseHeader 2:perm:*Permission
UserListResponse 1:header:ResponseHeader 2:users:*s
RoleListResponse 1:header:ResponseHeader 2:roles:*s
Permission 1:permType:i 2:key:b 3:range_end:b
RoleGrantRequest 1:name:s 2:perm:Permission
RoleRevokeRequest 1:role:s 2:key:b 3:range_end:b
LockRequest 1:name:b 2:lease:i
LockResponse 1:header:ResponseHeader 2:key:b
UnlockRequest 1:key:b
CampaignRequest 1:name:b 2:lease:i 3:value:b
LeaderKey 1:name:b 2:key:b 3:rev:i 4:lease:i
CampaignResponse 1:header:ResponseHeader 2:leader:LeaderKey
LeaderRequest 1:name:b
LeaderResponse 1:header:ResponseHeader 2:kv:KeyValue
ResignRequest 1:leader:LeaderKey
ProclaimRequest 1:leader:LeaderKey 2:value:b
HeaderResponse 1:header:ResponseHeader
Empty
"""

# name: service, method, request, response
UNARY = """
range KV Range RangeRequest RangeResponse
put KV Put PutRequest PutResponse
delete KV DeleteRange DeleteRangeRequest DeleteRangeResponse
txn KV Txn TxnRequest TxnResponse
compact KV Compact CompactionRequest HeaderResponse
grant Lease LeaseGrant LeaseGrantRequest LeaseGrantResponse
revoke Lease LeaseRevoke LeaseRevokeRequest HeaderResponse
ttl Lease LeaseTimeToLive LeaseTimeToLiveRequest LeaseTimeToLiveResponse
leases Lease LeaseLeases Empty LeaseLeasesResponse
member_list Cluster MemberList MemberListRequest MembersResponse
member_add Cluster MemberAdd MemberAddRequest MemberAddResponse
member_remove Cluster MemberRemove MemberRemoveRequest MembersResponse
member_update Cluster MemberUpdate MemberUpdateRequest MembersResponse
member_promote Cluster MemberPromote MemberPromoteRequest MembersResponse
alarm Maintenance Alarm AlarmRequest AlarmResponse
status Maintenance Status Empty StatusResponse
defrag Maintenance Defragment Empty HeaderResponse
hash Maintenance Hash Empty HashResponse
hashkv Maintenance HashKV HashKVRequest HashKVResponse
move_leader Maintenance MoveLeader MoveLeaderRequest HeaderResponse
downgrade Maintenance Downgrade DowngradeRequest DowngradeResponse
auth_enable Auth AuthEnable Empty HeaderResponse
auth_disable Auth AuthDisable Empty HeaderResponse
auth_status Auth AuthStatus Empty AuthStatusResponse
authenticate Auth Authenticate NamePassword AuthenticateResponse
user_add Auth UserAdd UserAddRequest HeaderResponse
user_get Auth UserGet NameRequest UserGetResponse
user_list Auth UserList Empty UserListResponse
user_delete Auth UserDelete NameRequest HeaderResponse
user_password Auth UserChangePassword UserPasswordRequest HeaderResponse
user_grant Auth UserGrantRole UserRoleRequest HeaderResponse
user_revoke Auth UserRevokeRole UserRoleRevokeRequest HeaderResponse
role_add Auth RoleAdd NameRequest HeaderResponse
role_get Auth RoleGet RoleRequest RoleGetResponse
role_list Auth RoleList Empty RoleListResponse
role_delete Auth RoleDelete RoleRequest HeaderResponse
role_grant Auth RoleGrantPermission RoleGrantRequest HeaderResponse
role_revoke Auth RoleRevokePermission RoleRevokeRequest HeaderResponse
lock v3lockpb.Lock Lock LockRequest LockResponse
unlock v3lockpb.Lock Unlock UnlockRequest HeaderResponse
campaign v3electionpb.Election Campaign CampaignRequest CampaignResponse
proclaim v3electionpb.Election Proclaim ProclaimRequest HeaderResponse
leader v3electionpb.Election Leader LeaderRequest LeaderResponse
resign v3electionpb.Election Resign ResignRequest HeaderResponse
nothing KV Nothing Empty Empty
"""


def _tables():
    by_name, by_number = {}, {}
    for line in MESSAGES.split("\n"):
        if line:
            name, *fields = line.split()
            split = [f.split(":") for f in fields]
            by_name[name] = {f: (int(no), kind.lstrip("*")) for no, f, kind in split}
            by_number[name] = {int(no): (f, kind.lstrip("*")) for no, f, kind in split}
    methods = {}
    for line in UNARY.strip().split("\n"):
        name, service, method, req, res = line.split()
        methods[name] = (f"/{service if '.' in service else 'etcdserverpb.' + service}/{method}", req, res)
    return by_name, by_number, methods


FIELDS, NUMBERS, METHODS = _tables()


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def encode(message, fields, value_of=lambda v: v):
    """The bytes of {field: value}; a list repeats its field. value_of turns what stands for a value into it. Zeroes are
    left out but for members of a union, which are sent because they are there."""
    out = bytearray()
    for name, values in fields.items():
        no, kind = FIELDS[message][name]
        if kind == "p":
            data = b"".join(map(varint, values))
            out += varint(no << 3 | 2) + varint(len(data)) + data
            continue
        for v in values if isinstance(values, list) else [values]:
            v = value_of(v)
            if kind == "i":
                if int(v) or isinstance(values, list) or (message == "Compare" and name not in ("result", "target")):
                    out += varint(no << 3) + varint(int(v))
                continue
            if kind in ("b", "s"):
                data = v.encode() if isinstance(v, str) else bytes(v)
                if not data and not isinstance(values, list) and (message, name) != ("Compare", "value"):
                    continue
            else:
                data = encode(kind, v or {}, value_of)
            out += varint(no << 3 | 2) + varint(len(data)) + data
    return bytes(out)


def decode(message, data):
    """[(field, value)…] in the order of the wire; messages inside are lists of the same kind."""
    table, out, i = NUMBERS[message], [], 0

    def number():
        nonlocal i
        n = shift = 0
        while True:
            c = data[i]
            i += 1
            n |= (c & 127) << shift
            shift += 7
            if c < 128:
                return n
    while i < len(data):
        tag = number()
        name, kind = table.get(tag >> 3, (f"field-{tag >> 3}", "i" if tag & 7 == 0 else "b"))
        if tag & 7 == 0:
            n = number()
            out.append((name, n - (1 << 64) if n >> 63 else n))
        elif tag & 7 == 2:
            n = number()
            if i + n > len(data):
                raise ValueError(f"{message}.{name} is cut")
            part = data[i:i + n]
            i += n
            out.append((name, part if kind in "bs" else decode(kind, part)))
        else:
            raise ValueError(f"{message}: wire type {tag & 7}")
    return out


def get(tree, name, default=0):
    for k, v in tree:
        if k == name:
            return v
    return default


def text_of(tree, depth=0):
    """A decoded message, for people."""
    pad, out = "  " * depth, []
    for k, v in tree:
        out.append(f"{pad}{k}:\n{text_of(v, depth + 1)}" if isinstance(v, list) and v and isinstance(v[0], tuple)
                   else f"{pad}{k}: {v!r}")
    return "\n".join(out)
