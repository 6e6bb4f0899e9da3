# Short names for what scripts/ and cargo do.

PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
DESTDIR ?=
# How long `make fuzz` spends on each target, in seconds.
FUZZ_TIME ?= 60

.PHONY: help demo test build bench lab fuzz bpf setup install uninstall clean

help:
	@echo 'make demo      set up, build, and show the switch at work (nothing of this machine is touched)'
	@echo 'make test      all checks: format, lints, documentation, unit and system tests'
	@echo 'make build     release binaries: target/release/vswitch, target/release/vswitchctl'
	@echo 'make bench     micro-benchmarks of the datapath, no root needed'
	@echo 'make lab       measure against the kernel bridge and Open vSwitch, as root'
	@echo 'make fuzz      fuzz each target for FUZZ_TIME=$(FUZZ_TIME) seconds; needs nightly and cargo-fuzz'
	@echo 'make bpf       compile the programs that run in the kernel; needs clang 14 and libbpf-dev'
	@echo 'make install   into PREFIX=$(PREFIX), with the systemd unit and shell completion'

demo:
	@scripts/demo

test:
	@scripts/test

setup:
	@scripts/setup

build:
	cargo build --release --locked -p vswitch -p vswitchctl

bench:
	cargo bench --locked -p vswitch-benches

lab: build
	@scripts/setup bench
	cargo build --release --locked -p vswitch-benches
	target/release/lab

fuzz:
	@scripts/fuzz $(FUZZ_TIME)

bpf:
	@scripts/build-bpf vswitch/src/bpf/classifier.bpf.c vswitch/src/bpf/classifier.bpf.o

# Does not build, so that `make build && sudo make install` leaves no files of root in target/.
install:
	@test -x target/release/vswitch || { echo 'first: make build' >&2; exit 1; }
	install -D -m 755 target/release/vswitch $(DESTDIR)$(BINDIR)/vswitch
	install -D -m 755 target/release/vswitchctl $(DESTDIR)$(BINDIR)/vswitchctl
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|^\(Exec[A-Za-z]*=\)[^ ]*/\(vswitch[a-z]*\)|\1$(BINDIR)/\2|' packaging/systemd/vswitch.service \
		> $(DESTDIR)$(PREFIX)/lib/systemd/system/vswitch.service
	install -m 644 packaging/systemd/vswitch-docker.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	target/release/vswitchctl completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vswitchctl
	target/release/vswitchctl completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vswitchctl
	target/release/vswitchctl completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vswitchctl.fish
	target/release/vswitch --completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vswitch
	target/release/vswitch --completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vswitch
	target/release/vswitch --completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vswitch.fish

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/vswitch $(DESTDIR)$(BINDIR)/vswitchctl \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/vswitch.service \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/vswitch-docker.socket \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vswitchctl \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vswitchctl \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vswitchctl.fish \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vswitch \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vswitch \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vswitch.fish

clean:
	cargo clean
