# timeout: 600
# Fifty tenants on one host.
load server.bash

setup_file() { net_up && server_start a; }
teardown_file() { net_down; }

tenant_list() {
    local i
    for i in $(seq 50); do
        printf 'apiVersion: kfarm.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t%d, namespace: default}\nspec: {}\n---\n' "$i"
    done
}
all_running() {
    [ "$(k get tenants -o json | jq '[.items[] | select(.status.phase == "Running")] | length')" = 50 ]
}

@test "fifty tenants are up and answer" {
    began=$(now_ms)
    tenant_list | k apply -f -
    wait_until all_running
    echo "all Running after $(($(now_ms) - began)) ms"
    for i in $(seq 50); do
        tenant_fetch "t$i"
        kubeconfig_split "$WORK/t$i.kubeconfig"
        on curl -sSf --max-time 60 --cacert "$WORK/t$i.ca" --cert "$WORK/t$i.crt" --key "$WORK/t$i.key" \
            "$(cat "$WORK/t$i.server")/api/v1/namespaces/default" >"$WORK/t$i.json"
    done
    # Fifty different clusters.
    [ "$(jq -r .metadata.uid "$WORK"/t*.json | sort -u | wc -l)" = 50 ]
    [ "$(k get tenants -o 'jsonpath={.items[*].status.port}' | tr ' ' '\n' | sort -u | wc -l)" = 50 ]
}

@test "they survive a restart of the server" {
    server_stop a
    server_start a
    for i in $(seq 50); do
        answers() {
            on curl -sSf --max-time 60 --cacert "$WORK/t$i.ca" --cert "$WORK/t$i.crt" --key "$WORK/t$i.key" \
                "$(cat "$WORK/t$i.server")/api/v1/namespaces/default"
        }
        wait_until answers
        [ "$(answers | jq -r .metadata.uid)" = "$(jq -r .metadata.uid "$WORK/t$i.json")" ]
    done
}

@test "all are deleted and nothing is left of them" {
    k delete tenants --all --timeout=120s
    none() { [ -z "$(ls -A "$WORK/a/tenants")" ] && [ "$(server_tree | wc -l)" -le 9 ]; }
    wait_until none
    server_stop a
}
