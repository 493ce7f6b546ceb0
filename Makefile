# kfarm: `make help` lists the targets. Sources are found by wildcard; nothing is configured.

MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
.DEFAULT_GOAL := all

B := build
export SOURCE_DATE_EPOCH ?= 0
export LC_ALL := C.UTF-8

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(2)';)
ccache := $(if $(shell command -v ccache),ccache)

# --- sources -------------------------------------------------------------------------------------

generators := $(wildcard internal/*/gen.py)
generated := $(generators:internal/%/gen.py=$(B)/gen/%_gen.c)
test_c := $(sort $(wildcard internal/*/*_test.c))
fuzz_c := $(sort $(wildcard internal/*/*_fuzz.c))
t_c := $(sort $(wildcard internal/t/*.c))
lin_c := $(sort $(filter-out $(test_c),$(wildcard internal/lin/*.c)))
judge_c := $(filter-out internal/lin/lin_run%.c internal/lin/lin_main.c internal/lin/fault_sys.c,$(lin_c))
lib_c := $(sort $(filter-out $(test_c) $(fuzz_c) $(t_c) $(lin_c),$(wildcard internal/*/*.c))) $(generated)
cmd_c := $(sort $(wildcard cmd/*.c))
headers := $(sort $(wildcard internal/*/*.h cmd/*.h))
# Headers are laid out by hand: clang-format would run their aligned comments together.
formatted := $(cmd_c) $(filter-out $(generated),$(lib_c)) $(t_c) $(lin_c) $(test_c) $(fuzz_c) \
  $(wildcard scripts/bench/*.c)

# --- variants: <name>_cc, <name>_flags ; objects in build/obj/<name>/ ----------------------------

deps := $(B)/deps
warn := -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes \
  -Wmissing-prototypes -Wold-style-definition -Wvla -Wformat=2 -Wimplicit-fallthrough \
  -Wswitch-enum -Wundef -Wwrite-strings -Wpointer-arith -Wcast-qual -Werror
common := -std=gnu11 -g -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. \
  -fno-common -fno-strict-aliasing -fvisibility=hidden -Wdate-time $(warn) \
  $(addprefix -include ,$(wildcard internal/base/banned.h)) \
  -ffile-prefix-map=$(CURDIR)/= -ffile-prefix-map=$(CURDIR)=.
musl := -isystem $(deps)/musl/include -idirafter $(deps)/kernel
glibc := -isystem $(deps)/glibc/include
harden := -fstack-protector-strong -fstack-clash-protection -fcf-protection
asan := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
frame := -Wframe-larger-than=16384

# `make check CC=clang` has objects of its own.
CHECK := $(if $(findstring clang,$(CC)),check-clang,check)

rel_cc := musl-gcc
rel_flags := $(common) $(musl) $(frame) $(harden) -O2 -fno-pie -ffunction-sections -fdata-sections
check_cc := gcc
check_flags := $(common) $(glibc) $(asan) -Wno-maybe-uninitialized
check-clang_cc := clang
check-clang_flags := $(common) $(glibc) $(asan)
tsan_cc := gcc
tsan_flags := $(common) $(glibc) -O1 -fno-omit-frame-pointer -fsanitize=thread -Wno-maybe-uninitialized
fuzz_cc := clang
fuzz_flags := $(common) $(glibc) $(asan) -fsanitize=fuzzer-no-link -DKF_FUZZ_MAIN
cov_cc := gcc
cov_flags := $(common) $(glibc) -O0 --coverage -Wno-maybe-uninitialized
clang_cc := clang
clang_flags := $(common) $(glibc) -O0 -g0

libs := -Wl,--start-group -lmbedtls -lnghttp2 -lllhttp -lsqlite3 -lzstd -lyaml -lyyjson -Wl,--end-group
rel_libs := -L$(deps)/musl/lib $(libs)
glibc_libs := -L$(deps)/glibc/lib $(libs) -lcmocka -lpthread

# $(call objs,<variant>,<sources>)
objs = $(patsubst %.c,$(B)/obj/$(1)/%.o,$(2))

define VARIANT
$(B)/obj/$(1)/%.o: %.c Makefile $(B)/deps.stamp
	$$(call say,$(1),$$<)mkdir -p $$(@D); $(ccache) $$($(1)_cc) $$($(1)_flags) -MMD -MP -c $$< -o $$@
-include $$(patsubst %.o,%.d,$$(call objs,$(1),$(cmd_c) $(lib_c) $(t_c) $(lin_c) $(test_c) $(fuzz_c)))
endef
$(foreach v,rel check check-clang tsan fuzz cov clang,$(eval $(call VARIANT,$(v))))

# --- the product ---------------------------------------------------------------------------------

.PHONY: all
all: $(B)/kfarm

# The binary must be static without an interpreter (musl-gcc falls back to a dynamic one silently)
# and must stay small.
$(B)/kfarm: $(B)/kfarm.debug
	$(call say,strip,$@)strip -s -o $@.tmp $<
	$(Q)if readelf -lW $@.tmp | grep -q INTERP; then echo '$@ is not static' >&2; exit 1; fi
	$(Q)size=$$(stat -c %s $@.tmp); if [ $$size -gt 8388608 ]; then \
	  echo "$@ has $$size bytes, the limit is 8 MiB" >&2; exit 1; fi
	$(Q)mv $@.tmp $@

$(B)/kfarm.debug: $(call objs,rel,$(cmd_c) $(lib_c)) | $(B)/deps.stamp
	$(call say,link,$@)musl-gcc -static -no-pie -g -Wl,--gc-sections -Wl,-z,relro,-z,now \
	  -Wl,-z,noexecstack -Wl,-z,stack-size=1048576 -Wl,--build-id=sha1 -o $@ $(filter %.o,$^) \
	  $(rel_libs)

# The store's tests under faults: clients that write a history and its judge; and the product with faults in place of
# system calls, below everything that touches files and clocks.
# Hand-overs to the lanes can be put in order in the test programs (internal/lin/fault_lanes.h).
lanes := -Wl,--wrap=loop_work_submit
wrapped := open openat close pread pwrite ftruncate fdatasync fsync clock_gettime
lin_prog_c := $(filter-out internal/lin/fault%.c,$(lin_c))

$(B)/check/kfarm-lin: $(call objs,rel,$(lin_prog_c) $(lib_c)) | $(B)/deps.stamp
	$(call say,link,$@)mkdir -p $(@D); musl-gcc -static -no-pie -g -Wl,--gc-sections -o $@ $(filter %.o,$^) $(rel_libs)

# The product with the sanitizers.
$(B)/check/kfarm: $(call objs,check,$(cmd_c)) $(B)/check/libkfarm.a
	$(call say,link,$@)mkdir -p $(@D); gcc $(asan) -o $@ $^ $(glibc_libs)

$(B)/check/kfarm-faulty-store: $(call objs,rel,$(cmd_c) $(lib_c) internal/lin/fault_sys.c internal/lin/fault_lanes.c) | $(B)/deps.stamp
	$(call say,link,$@)mkdir -p $(@D); musl-gcc -static -no-pie -g -Wl,--gc-sections -Wl,-z,stack-size=1048576 \
	  $(wrapped:%=-Wl,--wrap=%) $(lanes) -o $@ $(filter %.o,$^) $(rel_libs)

# --- dependencies, generated sources -------------------------------------------------------------

deps_inputs := scripts/deps.sh scripts/deps.lock scripts/deps.mk $(wildcard scripts/deps/*)

.PHONY: deps FORCE
deps: $(B)/deps.stamp
	@echo "deps: $$(readlink $(deps))"

# Objects depend on the stamp, which changes only when other libraries take the place of the old.
$(B)/deps.stamp: $(deps_inputs) $(if $(wildcard $(deps)/musl/lib),,FORCE)
	@mkdir -p $(B); dir=$$(scripts/deps.sh); ln -sfn "$$dir" $(deps); \
	echo "$$dir" | cmp -s - $@ || echo "$$dir" >$@

define GENERATED
$(B)/gen/$(1)_gen.c: internal/$(1)/gen.py $(wildcard internal/$(1)/data/* internal/$(1)/data/*/*)
	$$(call say,gen,$$@)mkdir -p $$(@D); python3 $$< $$@
endef
$(foreach p,$(generators:internal/%/gen.py=%),$(eval $(call GENERATED,$(p))))

# --- tests ---------------------------------------------------------------------------------------

asan_env := ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:strict_string_checks=1 \
  UBSAN_OPTIONS=print_stacktrace=1

runner := $(B)/$(CHECK)/kfarm-tests

.PHONY: check unit fuzz-replay tsan cov fuzz clang
check: unit fuzz-replay clang lint

# Our objects reach the test programs as an archive: they take what the tests use.
define ARCHIVE
$(B)/$(1)/libkfarm.a: $$(call objs,$(1),$(lib_c))
	@mkdir -p $$(@D); rm -f $$@; ar rcsTD $$@ $$^
endef
$(foreach v,check check-clang tsan fuzz cov,$(eval $(call ARCHIVE,$(v))))

# One runner holds every test and every fuzz target.
unit: $(runner)
	$(call say,test,$<)$(asan_env) timeout 600 $< $(TESTS)

fuzz-replay: $(runner)
	$(call say,replay,testdata/*/corpus)$(asan_env) scripts/fuzz-replay $<

$(B)/check/kfarm-tests: $(call objs,check,$(t_c) $(judge_c) $(test_c) $(fuzz_c)) $(B)/check/libkfarm.a
	$(call say,link,$@)mkdir -p $(@D); gcc $(asan) $(lanes) -o $@ $^ $(glibc_libs)

$(B)/check-clang/kfarm-tests: $(call objs,check-clang,$(t_c) $(judge_c) $(test_c) $(fuzz_c)) $(B)/check-clang/libkfarm.a
	$(call say,link,$@)mkdir -p $(@D); clang $(asan) $(lanes) -o $@ $^ $(glibc_libs)

tsan: $(B)/tsan/kfarm-tests
	$(call say,tsan,$<)TSAN_OPTIONS=halt_on_error=1 timeout 900 $< $(TESTS)

$(B)/tsan/kfarm-tests: $(call objs,tsan,$(t_c) $(judge_c) $(test_c) $(fuzz_c)) $(B)/tsan/libkfarm.a
	$(call say,link,$@)mkdir -p $(@D); gcc -fsanitize=thread $(lanes) -o $@ $^ $(glibc_libs)

# Lines that the unit tests and the fuzz corpora run, by package; lines never run: build/cov/<source>.gcov.
cov: $(B)/cov/kfarm-tests
	$(Q)find $(B)/obj/cov -name '*.gcda' -delete
	$(call say,cov,$<)timeout 900 $< $(TESTS) >/dev/null
	$(Q)scripts/fuzz-replay $< >/dev/null
	$(Q)scripts/cov $(B)/obj/cov $(B)/cov

$(B)/cov/kfarm-tests: $(call objs,cov,$(t_c) $(judge_c) $(test_c) $(fuzz_c)) $(B)/cov/libkfarm.a
	$(call say,link,$@)mkdir -p $(@D); gcc --coverage $(lanes) -o $@ $^ $(glibc_libs)

# All targets are in one binary, T=<pkg>_<name> chooses: `make fuzz T=dhcp_msg TIME=60`.
TIME ?= 60
fuzz: $(B)/fuzz/kfarm-fuzz
	@[ -n "$(T)" ] || { echo 'make fuzz T=<package>_<target>' >&2; exit 2; }
	$(Q)scripts/fuzz $< $(T) -max_total_time=$(TIME) $(ARGS)

$(B)/fuzz/kfarm-fuzz: $(call objs,fuzz,$(t_c) $(fuzz_c)) $(B)/fuzz/libkfarm.a
	$(call say,link,$@)mkdir -p $(@D); clang $(asan) -fsanitize=fuzzer -o $@ $^ $(glibc_libs)

clang: $(call objs,clang,$(cmd_c) $(lib_c) $(t_c) $(lin_c) $(test_c) $(fuzz_c))
	@echo 'clang: clean'

# --- programs of the benchmarks ------------------------------------------------------------------

# The load generator for etcd's API.
$(B)/etcdload: $(call objs,rel,scripts/bench/etcdload.c scripts/bench/load.c $(lib_c)) | $(B)/deps.stamp
	$(call say,link,$@)musl-gcc -static -no-pie -g -Wl,--gc-sections -o $@ $(filter %.o,$^) $(rel_libs)

# The load generator for the API server's watches.
$(B)/apiload: $(call objs,rel,scripts/bench/apiload.c $(lib_c)) | $(B)/deps.stamp
	$(call say,link,$@)musl-gcc -static -no-pie -g -Wl,--gc-sections -o $@ $(filter %.o,$^) $(rel_libs)

# The store's engine alone, in process.
$(B)/bench-engine: $(call objs,rel,scripts/bench/engine.c $(lib_c)) | $(B)/deps.stamp
	$(call say,link,$@)musl-gcc -static -no-pie -g -Wl,--gc-sections -o $@ $(filter %.o,$^) $(rel_libs)
-include $(patsubst %.c,$(B)/obj/rel/%.d,$(wildcard scripts/bench/*.c))

# --- lint ----------------------------------------------------------------------------------------

.PHONY: lint check-headers check-format fmt
lint: all check-headers check-format
	$(call say,lint,layers)scripts/check-layers $(B)/obj/rel
	$(call say,lint,banned)scripts/check-banned
	$(call say,lint,globals)scripts/check-globals $(B)/obj/rel
	@echo 'lint: clean'

check-headers: $(headers:%=$(B)/headers/%.ok)

$(B)/headers/%.h.ok: %.h Makefile $(B)/deps.stamp
	$(call say,header,$<)mkdir -p $(@D); musl-gcc $(rel_flags) \
	  -fsyntax-only -MMD -MP -MT $@ -MF $(@:.ok=.d) -x c $<; touch $@
-include $(headers:%=$(B)/headers/%.d)

check-format: $(formatted:%=$(B)/format/%.ok)

$(B)/format/%.c.ok: %.c .clang-format
	@mkdir -p $(@D); clang-format $< | cmp -s - $< || { echo '$<: not formatted (make fmt)' >&2; exit 1; }; touch $@

fmt:
	$(Q)clang-format -i $(formatted)

# --- the rest ------------------------------------------------------------------------------------

.PHONY: demo test test-upstream bench clean help
# Both install what building needs, and build.
demo:
	scripts/demo.sh
test:
	scripts/test.sh $(FILES)
test-upstream:
	scripts/setup.sh upstream
	scripts/upstream.sh
	FULL=1 scripts/test.sh scripts/test/56-upstream-store.py
# ROUNDS= and SEED= of the store's fault tests.
soak:
	scripts/soak.sh $(ROUNDS) $(SEED)
bench:
	scripts/bench.sh
clean:
	rm -rf $(B)

help:
	@printf '%s\n' \
	  'make               build/kfarm: the static release binary (and kfarm.debug with symbols)' \
	  'make deps          fetch and build the third-party libraries (cached outside the tree)' \
	  'make check         unit tests and fuzz replay with ASan+UBSan, clang, lint; TESTS=pattern, CC=clang' \
	  'make tsan          the same tests with the thread sanitizer' \
	  'make cov           lines of code that the same tests run, by package' \
	  'make fuzz T=p_n    libFuzzer on target n of package p; TIME=seconds ARGS=' \
	  'make lint          layers, headers, banned functions, globals, format' \
	  'make fmt           format the sources' \
	  'make clang         compile everything with clang' \
	  'make test          everything a machine without KVM can test; FILES=scripts/test/x.bats' \
	  'make test-upstream builds upstream Kubernetes 1.20 and runs it on the store; REFERENCE=1: on etcd too' \
	  'make soak          thousands of rounds of the store under faults; ROUNDS= SEED=' \
	  'make demo, make bench, make clean; BENCH=store make bench: the store beside etcd 3.5' \
	  'V=1 shows the commands'
