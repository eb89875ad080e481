# outbox: the server library is built by PGXS, the sink programs by CMake.
#
#   make, make install, make installcheck    as with any extension; PG_CONFIG and DESTDIR are respected
#   make help                                what else there is

EXTENSION  = outbox
MODULE_big = outbox
DATA       = sql/outbox--0.1.0.sql

# Everything under src/ runs in the server, except the sink programs.
SOURCES = $(sort $(wildcard src/*.cpp src/pg/*.cpp src/session/*.cpp src/attach/*.cpp src/debezium/*.cpp \
                            src/worker/*.cpp src/storage/*.cpp src/shared/*.cpp))
OBJS    = $(SOURCES:.cpp=.o)

# sql/ holds the install scripts (name--version) and the inputs of pg_regress (no double dash).
# Both kinds of test need a server that has outbox in shared_preload_libraries.
REGRESS   = $(sort $(filter-out outbox--%,$(patsubst sql/%.sql,%,$(wildcard sql/*.sql))))
ISOLATION = $(sort $(patsubst specs/%.spec,%,$(wildcard specs/*.spec)))

SINKS = outbox-kafka outbox-file

# These run before PostgreSQL and its pg_config are installed.
STANDALONE = help setup demo check faults fuzz format lint mutants compat bench bench-quick clean print-%

# Empty it (make WERROR=) for a compiler whose new warnings nobody has looked at yet.
WERROR ?= -Werror

PG_CONFIG ?= pg_config

ifneq ($(filter-out $(STANDALONE),$(or $(MAKECMDGOALS),all)),)

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) does not answer. Give its place (make PG_CONFIG=...), or install what is lacking on Debian with "make setup")
endif

# A server built with LLVM asks for bitcode, which wants the very clang it was built with. Without that
# clang the library loads all the same: bitcode is for inlining into JIT-compiled queries only.
GLOBAL_MK := $(dir $(PGXS))../Makefile.global
PG_CLANG  := $(shell sed -n 's/^CLANG *= *//p' $(GLOBAL_MK))
ifeq ($(shell command -v $(or $(PG_CLANG),clang-of-no-name) 2>/dev/null),)
override with_llvm = no
endif

EXTRA_CLEAN = build results output_iso

# Java's regular expressions, for tables that Debezium's outbox router has read.
SHLIB_LINK = -lpcre2-8

# Nothing in the server may throw, and nothing but the entry points may be seen from outside.
# PGDLLEXPORT means that only from PostgreSQL 16 on.
SERVER_CXXFLAGS = -std=c++20 -fno-exceptions -fno-rtti -fno-threadsafe-statics \
                  -fvisibility=hidden -fvisibility-inlines-hidden \
                  -Wall -Wextra $(WERROR) -Wno-register
PG_CXXFLAGS = $(SERVER_CXXFLAGS)

include $(PGXS)

# After the include, because PGXS puts the server's headers into CPPFLAGS by itself. As system headers
# they are exempt from our warnings.
override CPPFLAGS := -Isrc $(patsubst -I/%,-isystem /%,$(filter-out -I. -I./,$(CPPFLAGS)))

# PGXS compiles bitcode without PG_CXXFLAGS.
BITCODE_CXXFLAGS += $(SERVER_CXXFLAGS)

# Headers are tracked here: distributions build PostgreSQL, and with it PGXS, without dependency tracking.
DEPDIR_OUTBOX = build/deps
COMPILE.cc = $(CXX) $(CXXFLAGS) -MMD -MP -MF $(DEPDIR_OUTBOX)/$(subst /,-,$*).d -MT $@ -MT $(@:.o=.bc) $(CPPFLAGS) -c
$(OBJS) $(OBJS:.o=.bc): Makefile | $(DEPDIR_OUTBOX)
$(DEPDIR_OUTBOX):
	@mkdir -p $@
-include $(wildcard $(DEPDIR_OUTBOX)/*.d)

all: sinks
install: install-sinks
uninstall: uninstall-sinks

# A library and sinks with fault points (src/fault_point.hpp), for tests; never installed.
FAULTY = build/fault-points
.PHONY: fault-points
fault-points: $(FAULTY)/outbox.so
	cmake --preset fault-points
	cmake --build $(FAULTY) --target $(SINKS)
$(FAULTY)/outbox.so: $(SOURCES:%.cpp=$(FAULTY)/server/%.o)
	$(CC) $(CFLAGS) -shared -o $@ $^ $(LDFLAGS) $(LDFLAGS_SL) $(SHLIB_LINK)
$(FAULTY)/server/%.o: %.cpp Makefile
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS) -DOUTBOX_FAULT_POINTS -MMD -MP $(CPPFLAGS) -c -o $@ $<
-include $(SOURCES:%.cpp=$(FAULTY)/server/%.d)

.PHONY: sinks install-sinks uninstall-sinks
sinks:
	cmake --preset release
	cmake --build build/release --target $(SINKS)

# The relay starts <pkglibdir>/outbox-<name of the sink>.
install-sinks: sinks
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)'
	$(INSTALL_PROGRAM) $(addprefix build/release/,$(SINKS)) '$(DESTDIR)$(pkglibdir)/'

uninstall-sinks:
	rm -f $(addprefix '$(DESTDIR)$(pkglibdir)'/,$(SINKS))

ifneq ($(filter check,$(MAKECMDGOALS)),)
$(error "make check" builds and installs by itself: give it alone)
endif

else

.PHONY: check clean
check: ## run every test; STEPS="unit regress" runs some
	@scripts/check $(STEPS)

clean: ## remove what was built
	rm -rf build results output_iso regression.diffs regression.out outbox.so
	rm -f $(OBJS) $(OBJS:.o=.bc)

endif

.PHONY: help setup demo faults fuzz format lint mutants compat bench bench-quick
help: ## show this list
	@echo 'make | make install | make installcheck    build, install, test against a running server (PGXS)'
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r goal what; do \
	    printf 'make %-11s %s\n' "$$goal" "$$what"; done

setup: ## install what building and testing need on Debian 12
	scripts/setup build check kafka

demo: ## see SQL transactions arrive in Kafka; KAFKA=real or KAFKA=host:port for another broker than the embedded one
	@scripts/demo $(KAFKA)

faults: ## random faults under load, then the books compared; DURATION=3600 SEED=1 for an hour and from a seed
	@scripts/faults --build $(if $(DURATION),--seconds $(DURATION)) $(if $(SEED),--seed $(SEED)) $(FAULTS)

fuzz: ## feed rubbish to both ends of the frame protocol; SECONDS=60 for each target, TARGET=session for one
	@scripts/fuzz $(or $(SECONDS),60) $(TARGET)

format: ## format C++ and shell sources in place
	scripts/format

lint: ## formatting and lints only
	@scripts/check format lint

mutants: ## break the product in every classic way and see a test notice; ONLY=name for one
	@scripts/mutants $(ONLY)

compat: ## the same random rows through a real Debezium and through attach_debezium(), records compared; CASES=200 SEED=1
	@scripts/compat $(if $(CASES),--cases $(CASES)) $(if $(SEED),--seed $(SEED))

bench: ## measure beside Debezium and others, tables and plots to docs/benchmarks; PARTS="drain latency" ROUNDS=5 RESUME=yes
	@bench/run $(PARTS) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(RESUME),--resume)

bench-quick: ## five minutes' worth of that, to be run before and after a change
	@bench/run --quick $(PARTS) $(if $(ROUNDS),--rounds $(ROUNDS))

# For scripts: make -s print-OBJS
print-%:
	@echo '$($*)'
