# timeout: 600
# Tenants whose state is in an external etcd cluster: TLS from a Secret, a prefix each, etcd away and back, the end of the keys.
load server.bash

etcd_up() {
    nsenter --net="/run/netns/$NS" -- "$ETCD/etcd" --data-dir "$WORK/etcd" --listen-client-urls https://127.0.0.1:2379 \
        --advertise-client-urls https://127.0.0.1:2379 --cert-file "$PKI/server.crt" --key-file "$PKI/server.key" \
        --trusted-ca-file "$PKI/ca.crt" --client-cert-auth --listen-peer-urls http://127.0.0.1:2380 \
        --logger zap --log-level error </dev/null >>"$WORK/etcd.log" 2>&1 3>&- 4>&- &
    echo $! >"$WORK/etcd.pid"
    wait_until ctl endpoint health
}
etcd_down() {
    stop_pid "$(cat "$WORK/etcd.pid")"
    rm -f "$WORK/etcd.pid"
}
ctl() {
    on env ETCDCTL_API=3 "$ETCD/etcdctl" --dial-timeout 45s --command-timeout 45s --endpoints https://127.0.0.1:2379 --cacert "$PKI/ca.crt" \
        --cert "$PKI/admin.crt" --key "$PKI/admin.key" "$@"
}
n_keys() { ctl get --prefix --keys-only "$1" | grep -c .; }
condition() { k get tenant "$1" -o "jsonpath={.status.conditions[?(@.type=='$2')].$3}"; }
says() { [ "$(condition "$1" "$2" "$3")" = "$4" ]; }
etcd_tenant() { # NAME [DATASTORE FIELDS]
    k apply -f - <<EOF
apiVersion: kfarm.dev/v1alpha1
kind: Tenant
metadata: {name: $1, namespace: default}
spec: {datastore: {type: etcd, endpoints: ["https://127.0.0.1:2379"], secretName: etcd-tls${2:+, $2}}}
EOF
}

setup_file() {
    net_up
    ETCD=$("$BATS_TEST_DIRNAME/../tools.sh" etcd34)/usr/bin
    PKI=$WORK/pki
    mkdir "$PKI"
    export ETCD PKI
    cd "$PKI" || return 1
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key 2>/dev/null
    openssl req -x509 -new -key ca.key -subj /CN=etcd-ca -days 30 -out ca.crt 2>/dev/null
    local name
    for name in server admin kfarm; do
        openssl ecparam -name prime256v1 -genkey -noout -out $name.key 2>/dev/null
        openssl req -new -key $name.key -subj /CN=$name -out $name.csr 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >ext
        openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out $name.crt 2>/dev/null
    done
    cd "$BATS_TEST_DIRNAME" || return 1
    etcd_up && server_start a
    k create secret generic etcd-tls --from-file=ca.crt="$PKI/ca.crt" --from-file=tls.crt="$PKI/kfarm.crt" \
        --from-file=tls.key="$PKI/kfarm.key"
}
teardown_file() { net_down; }

@test "a tenant on etcd with TLS and client certificate answers" {
    etcd_tenant e1
    wait_until tenant_fetch e1
    wait_until t e1 get namespace default
    t e1 create configmap mine --from-literal=a=1
    uid=$(tenant_uid e1)
    [ "$(n_keys "/kfarm/$uid/registry/core/configmaps/default/mine")" = 1 ]
    [ "$(n_keys /)" = "$(n_keys "/kfarm/$uid/")" ]
    [ ! -e "$WORK/a/tenants/$uid/store.db" ]
    wait_until says e1 DatastoreReady status True
    wait_until k wait --for=condition=Ready --timeout=1s tenant/e1
    # The key reaches the process without a file in its directory or an argument.
    run grep -rl "PRIVATE KEY" "$WORK/a/tenants/$uid"
    [ -z "$output" ]
}

@test "a second one beside it, with a prefix of its own choice, knows nothing of the first" {
    etcd_tenant e2 "prefix: /other/place, reclaimPolicy: Retain"
    wait_until tenant_fetch e2
    wait_until t e2 get namespace default
    run t e2 get configmap mine
    [ "$status" != 0 ]
    [ "$(n_keys /other/place/registry/core/namespaces/default)" = 1 ]
    run k patch tenant e2 --type=merge -p '{"spec":{"datastore":{"prefix":"/elsewhere"}}}'
    [[ "$status" != 0 && "$output" == *"field is immutable"* ]]
}

@test "etcd goes away: the condition says so, reads go on, and all heals" {
    etcd_down
    wait_until says e1 DatastoreReady reason EtcdUnavailable
    says e1 Ready status False
    t e1 get configmap mine
    run t e1 create configmap lost
    [ "$status" != 0 ]
    echo "$output"
    [[ "$output" == *etcd* ]]
    # The process is the same: nothing was started again.
    [ "$(k get pods -l kfarm.dev/tenant=e1 -o 'jsonpath={.items[0].status.containerStatuses[*].restartCount}')" = "0 0" ]
    etcd_up
    wait_until says e1 DatastoreReady status True
    wait_until t e1 create configmap found
}

@test "SIGKILL of its API server loses nothing" {
    uid=$(tenant_uid e1)
    kill -KILL "$(role_pids apiserver "$uid")"
    back() { t e1 get configmap mine && t e1 get configmap found; }
    wait_until back
}

@test "https without a Secret is refused by a condition" {
    k apply -f - <<EOF
apiVersion: kfarm.dev/v1alpha1
kind: Tenant
metadata: {name: e3, namespace: default}
spec: {datastore: {type: etcd, endpoints: ["https://127.0.0.1:2379"]}}
EOF
    wait_until says e3 Accepted status False
    [[ "$(condition e3 Accepted message)" == *secretName* ]]
    k delete tenant e3 --timeout=120s
}

@test "a deleted tenant's keys go, unless they are to be kept; with etcd away it waits" {
    uid=$(tenant_uid e1)
    etcd_down
    k delete tenant e1 --wait=false
    told() { k get events -o 'jsonpath={.items[*].reason}' | grep -q DatastoreNotEmptied; }
    wait_until told
    k get tenant e1
    etcd_up
    gone() { ! k get tenant e1; }
    wait_until gone
    [ "$(n_keys "/kfarm/$uid/" || true)" = 0 ]
    [ "$(n_keys /other/place/)" -gt 10 ]
    k delete tenant e2 --timeout=120s
    [ "$(n_keys /other/place/)" -gt 10 ]
}
