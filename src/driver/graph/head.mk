# The pipeline of PIPELINE for GNU make, without the driver. `mirror42 graph --format make` has written it, and make does so
# again by itself when PIPELINE or mirror42 is newer. It belongs beside PIPELINE:
#
#     make -f FILE -j4          everything up to date, loaded, validated
#     make -f FILE exports      the files only; `pages`: without the filters
#     make -f FILE -n           what would run
#
# A step runs when what it reads is newer than what it wrote, when its receipt tells of another request or filter than the
# one that stands in PIPELINE now, or when its pages are older than their `max_age`. That all is loaded is noted under
# .mirror42/make/: remove that folder to load again.

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error this file needs GNU make 4.3 or later)
endif

all: exports .mirror42/make/validated
load: .mirror42/make/loaded
pages: PAGES
exports: EXPORTS
.PHONY: all load pages exports FORCE
FORCE:

# An export appears whole: make need not remove one where it is stopped.
.PRECIOUS: EXPORTS

self := $(lastword $(MAKEFILE_LIST))
$(self): PIPELINE $(wildcard $(shell command -v mirror42))
	mirror42 FLAGS graph --format make > $@.new
	mv $@.new $@

# STAGE/DEFINITION for all that the receipts tell, each the name of a variable.
made := $(shell awk -F'"' '$$2 == "definition" { split(FILENAME, f, "/"); gsub(/[ :]/, "+", $$4); print f[2] "/" $$4 }' exports/*/stage.json 2>/dev/null)
$(foreach name,$(made),$(eval made/$(name) := yes))
unless-made = $(if $(made/$1),,FORCE)

# The folders of pages that are older than so many minutes.
older-than = $(shell find exports/*/pages -maxdepth 0 -mmin +$1 2>/dev/null)
if-old = $(if $(old-$1),FORCE)
