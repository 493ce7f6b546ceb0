# Compiles the unpacked third-party sources; run by deps.sh, once per variant:
#   make -C <unpacked sources> -f deps.mk VARIANT=musl|glibc OUT=<prefix> TMP=<objects>
# Only the files that kfarm needs are compiled, straight from each project's tree. Paths are relative,
# so that the result is the same wherever it is built, and ccache can help.

SHELL := /bin/bash -o pipefail
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.SUFFIXES:

ccache := $(if $(shell command -v ccache),ccache)
HARDEN := -fstack-protector-strong -fstack-clash-protection -fcf-protection
ifeq ($(VARIANT),musl)
CC := $(ccache) musl-gcc
CFLAGS := -O2 $(HARDEN) -idirafter $(OUT)/../kernel
else
CC := $(ccache) gcc
CFLAGS := -O1 -fno-omit-frame-pointer
endif
CFLAGS += -std=gnu11 -g -w -fno-common -ffunction-sections -fdata-sections
CFLAGS += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DNDEBUG
CFLAGS += -ffile-prefix-map=$(CURDIR)=deps

LIBS := mbedtls nghttp2 llhttp sqlite3 zstd yaml yyjson cmocka

# mbedTLS: our configuration replaces the default one, in the installed headers as well.
mbedtls_src := $(sort $(wildcard mbedtls/library/*.c))
mbedtls_flags := -Imbedtls/include -Imbedtls/library

# ring: P-256 and X25519 (ecp_fast.c says how they come under mbedTLS' names). On other processors mbedTLS does it itself.
machine := $(firstword $(subst -, ,$(shell $(lastword $(CC)) -dumpmachine)))
ring_asm_x86_64 := ring/pregenerated/p256-x86_64-asm-elf.S ring/crypto/curve25519/curve25519_64_adx.c \
  $(sort $(wildcard ring/third_party/fiat/asm/*.S))
ring_asm_aarch64 := ring/pregenerated/p256-armv8-asm-linux64.S
ifneq ($(ring_asm_$(machine)),)
mbedtls_src += ring/ecp_fast.c ring/crypto/crypto.c ring/crypto/mem.c ring/crypto/curve25519/curve25519.c \
  ring/crypto/fipsmodule/ec/p256-nistz.c $(ring_asm_$(machine))
mbedtls_flags += -Iring/include -Iring/pregenerated
ecp.c_flags := $(foreach f,mul mul_restartable muladd muladd_restartable,-Dmbedtls_ecp_$(f)=mbedtls_plain_ecp_$(f))
endif

nghttp2_src := $(sort $(wildcard nghttp2/lib/*.c))
nghttp2_flags := -Inghttp2/lib/includes -DNGHTTP2_STATICLIB -DHAVE_ARPA_INET_H \
  -DHAVE_NETINET_IN_H -DHAVE_CLOCK_GETTIME -DHAVE_DECL_CLOCK_MONOTONIC=1 -DHAVE_TIME_H

# llhttp: generated C travels in nghttp2's archive; Debian's own package has only its TypeScript.
llhttp_src := $(sort $(wildcard nghttp2/third-party/llhttp/src/*.c))
llhttp_flags := -Inghttp2/third-party/llhttp/include

# SQLite: mutexes compiled in, connections not shared between threads unless asked for.
sqlite3_src := sqlite3/amalgamation/sqlite3.c
sqlite3_flags := -DSQLITE_THREADSAFE=2 -DSQLITE_DQS=0 -DSQLITE_DEFAULT_MEMSTATUS=0 \
  -DSQLITE_LIKE_DOESNT_MATCH_BLOBS -DSQLITE_MAX_EXPR_DEPTH=0 -DSQLITE_OMIT_DEPRECATED \
  -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_OMIT_SHARED_CACHE \
  -DSQLITE_OMIT_DECLTYPE -DSQLITE_OMIT_TRACE -DSQLITE_TEMP_STORE=2 \
  -DHAVE_FDATASYNC=1 -DHAVE_USLEEP=1 -DHAVE_GMTIME_R=1 -DHAVE_LOCALTIME_R=1 -DUSE_PREAD=1

zstd_src := $(sort $(wildcard $(addprefix libzstd/lib/,common/*.c compress/*.c decompress/*.c))) \
  libzstd/lib/decompress/huf_decompress_amd64.S
zstd_flags := -Ilibzstd/lib -DZSTD_LEGACY_SUPPORT=0 -DXXH_NAMESPACE=ZSTD_ -DDEBUGLEVEL=0

yaml_src := $(sort $(wildcard libyaml/src/*.c))
yaml_flags := -Ilibyaml/include -DYAML_DECLARE_STATIC -DYAML_VERSION_MAJOR=0 \
  -DYAML_VERSION_MINOR=2 -DYAML_VERSION_PATCH=5 -DYAML_VERSION_STRING='"0.2.5"'

yyjson_src := yyjson/src/yyjson.c
yyjson_flags := -Iyyjson/src

cmocka_src := cmocka/src/cmocka.c
cmocka_flags := -Icmocka/include -DHAVE_MALLOC_H -DHAVE_INTTYPES_H -DHAVE_SIGNAL_H \
  -DHAVE_STRINGS_H -DHAVE_STRUCT_TIMESPEC -DHAVE_UINTPTR_T=1 -DHAVE_STRSIGNAL \
  -DHAVE_CLOCK_GETTIME -DHAVE_CLOCK_REALTIME -DHAVE_GCC_THREAD_LOCAL_STORAGE -DHAVE_UNISTD_H

all: $(LIBS:%=$(OUT)/lib/lib%.a) headers

define LIB_RULES
$(1)_obj := $$(patsubst %,$$(TMP)/$(1)/%.o,$$(notdir $$($(1)_src)))
$$($(1)_obj): | $$(TMP)/$(1)
$$(TMP)/$(1): ; @mkdir -p $$@
$$(OUT)/lib/lib$(1).a: $$($(1)_obj)
	@mkdir -p $$(@D) && rm -f $$@ && ar rcsD $$@ $$^ && echo "  $$(VARIANT) lib$(1).a"
$$(foreach s,$$($(1)_src),$$(eval $$(TMP)/$(1)/$$(notdir $$(s)).o: $$(s) ; \
  @$$$$(CC) $$$$(CFLAGS) $$$$($(1)_flags) $$$$($$(notdir $$(s))_flags) -c $$$$< -o $$$$@))
endef
$(foreach l,$(LIBS),$(eval $(call LIB_RULES,$(l))))

headers:
	@mkdir -p $(OUT)/include/nghttp2
	@cp -r mbedtls/include/mbedtls mbedtls/include/psa $(OUT)/include/
	@cp nghttp2/lib/includes/nghttp2/*.h $(OUT)/include/nghttp2/
	@cp nghttp2/third-party/llhttp/include/llhttp.h sqlite3/amalgamation/sqlite3.h \
	  libzstd/lib/zstd.h libzstd/lib/zstd_errors.h libyaml/include/yaml.h \
	  yyjson/src/yyjson.h cmocka/include/cmocka.h $(OUT)/include/

.PHONY: all headers
