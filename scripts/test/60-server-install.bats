# timeout: 600
# The installer, into a root directory of its own.
load common.bash

setup() {
    [ "$(id -u)" = 0 ] || skip "needs root"
    TOP=$(readlink -f "$BATS_TEST_DIRNAME/../..")
    R=$(mktemp -d "${BATS_TEST_TMPDIR:-/tmp}/root.XXXXXX")
    export INSTALL_KFARM_ROOT=$R INSTALL_KFARM_BIN=${KFARM:-$TOP/build/kfarm}
}

@test "its units are those of packaging/" {
    INSTALL_KFARM_INIT=systemd "$TOP/packaging/install.sh"
    INSTALL_KFARM_INIT=openrc "$TOP/packaging/install.sh"
    cmp "$R/etc/systemd/system/kfarm.service" "$TOP/packaging/systemd/kfarm.service"
    cmp "$R/etc/init.d/kfarm" "$TOP/packaging/openrc/kfarm"
    cmp "$R/usr/local/bin/kfarm" "$INSTALL_KFARM_BIN"
    [ "$(stat -c %a "$R/etc/systemd/system/kfarm.service.env")" = 600 ]
    sh -n "$R/usr/local/bin/kfarm-uninstall.sh"
    sh -n "$R/etc/init.d/kfarm"
}

@test "flags and environment reach the service" {
    KFARM_LOG_LEVEL=debug https_proxy='http://a b"$' INSTALL_KFARM_INIT=systemd "$TOP/packaging/install.sh" --tls-san=farm.example --data-dir /srv/farm
    grep -qx 'ExecStart=/usr/local/bin/kfarm server --tls-san=farm.example --data-dir /srv/farm' "$R/etc/systemd/system/kfarm.service"
    grep -qx 'KFARM_LOG_LEVEL="debug"' "$R/etc/systemd/system/kfarm.service.env"
    (. "$R/etc/systemd/system/kfarm.service.env" && [ "$https_proxy" = 'http://a b"$' ])
}

@test "a second run writes nothing" {
    INSTALL_KFARM_INIT=systemd "$TOP/packaging/install.sh"
    run env INSTALL_KFARM_INIT=systemd "$TOP/packaging/install.sh"
    [ "$status" = 0 ]
    [[ "$output" != *wrote* ]]
}

@test "a download that is not what was promised changes nothing" {
    mkdir "$BATS_TEST_TMPDIR/www"
    cp "$INSTALL_KFARM_BIN" "$BATS_TEST_TMPDIR/www/kfarm"
    (cd "$BATS_TEST_TMPDIR/www" && sha256sum kfarm >sha256sums)
    INSTALL_KFARM_BIN='' INSTALL_KFARM_URL=file://$BATS_TEST_TMPDIR/www INSTALL_KFARM_INIT=none "$TOP/packaging/install.sh"
    cmp "$R/usr/local/bin/kfarm" "$BATS_TEST_TMPDIR/www/kfarm"
    rm -rf "$R/usr"
    echo x >>"$BATS_TEST_TMPDIR/www/kfarm"
    run env INSTALL_KFARM_BIN= INSTALL_KFARM_URL=file://$BATS_TEST_TMPDIR/www INSTALL_KFARM_INIT=none "$TOP/packaging/install.sh"
    [ "$status" = 1 ]
    [[ "$output" == *sha256sums* ]]
    [ ! -e "$R/usr/local/bin/kfarm" ]
}
