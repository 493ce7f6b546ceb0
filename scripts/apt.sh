# apt.sh: sourced by scripts that take packages from a Debian suite without installing them.
# Wants say, die and $tmp, a folder of the caller's; gives system_mirror and apt_suite.

# The mirror of the running system; apt itself reads both forms of its lists.
system_mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        awk -v c="$codename" '$2 == c && $3 == "main" && !n++ { print $1 }'
}

# apt_suite SUITE: $apt are the options of an apt with lists, cache and state of its own, for that suite.
apt_suite() {
    local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg dir=$tmp/apt-$1
    apt=(-qq -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o Dir::Etc::Preferences=/dev/null
        -o Dir::Etc::PreferencesParts=/dev/null -o APT::Sandbox::User=root -o Acquire::Retries=3)
    [ ! -d "$dir" ] || return 0
    command -v apt-get >/dev/null || die "no apt-get here"
    mirror=${KFARM_DEB_MIRROR:-$(system_mirror)}
    [ -n "$mirror" ] || die "no Debian mirror found in the apt lists: set KFARM_DEB_MIRROR"
    [ -f "$keyring" ] || die "no keyring at $keyring (package debian-archive-keyring)"
    mkdir -p "$dir/lists/partial" "$dir/cache"
    printf "%s [signed-by=$keyring] $mirror $1 main\n" deb deb-src >"$dir/sources.list"
    say "reading the index of $1"
    apt-get "${apt[@]}" -o APT::Update::Error-Mode=any update >&2 || die "the index of $1 could not be fetched"
}
