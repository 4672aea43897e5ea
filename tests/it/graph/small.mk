# The pipeline of pipeline.toml for GNU make, without the driver. `mirror42 graph --format make` has written it, and make does so
# again by itself when pipeline.toml or mirror42 is newer. It belongs beside pipeline.toml:
#
#     make -f FILE -j4          everything up to date, loaded, validated
#     make -f FILE exports      the files only; `pages`: without the filters
#     make -f FILE -n           what would run
#
# A step runs when what it reads is newer than what it wrote, when its receipt tells of another request or filter than the
# one that stands in pipeline.toml now, or when its pages are older than their `max_age`. That all is loaded is noted under
# .mirror42/make/: remove that folder to load again.

ifeq ($(filter grouped-target,$(.FEATURES)),)
$(error this file needs GNU make 4.3 or later)
endif

all: exports .mirror42/make/validated
load: .mirror42/make/loaded
pages: \
    exports/01_campus/pages \
    exports/02_events/pages
exports: \
    exports/01_campus/all.json \
    exports/02_events/all.json \
    exports/03_places/all.json \
    exports/04_guests/all.json
.PHONY: all load pages exports FORCE
FORCE:

# An export appears whole: make need not remove one where it is stopped.
.PRECIOUS: \
    exports/01_campus/all.json \
    exports/02_events/all.json \
    exports/03_places/all.json \
    exports/04_guests/all.json

self := $(lastword $(MAKEFILE_LIST))
$(self): pipeline.toml $(wildcard $(shell command -v mirror42))
	mirror42 graph --format make > $@.new
	mv $@.new $@

# STAGE/DEFINITION for all that the receipts tell, each the name of a variable.
made := $(shell awk -F'"' '$$2 == "definition" { split(FILENAME, f, "/"); gsub(/[ :]/, "+", $$4); print f[2] "/" $$4 }' exports/*/stage.json 2>/dev/null)
$(foreach name,$(made),$(eval made/$(name) := yes))
unless-made = $(if $(made/$1),,FORCE)

# The folders of pages that are older than so many minutes.
older-than = $(shell find exports/*/pages -maxdepth 0 -mmin +$1 2>/dev/null)
if-old = $(if $(old-$1),FORCE)
$(foreach path,$(call older-than,30),$(eval old-30/$(path) := yes))
$(foreach path,$(call older-than,1200),$(eval old-1200/$(path) := yes))

exports/01_campus/pages: \
    $(call unless-made,01_campus/format+1+address+HASH+auth+HASH+fetch+HASH+each+HASH+page+HASH+headers+HASH+query+HASH) $(call if-old,1200/exports/01_campus/pages)
	mirror42-fetch 01_campus

exports/02_events/pages: exports/01_campus/all.json \
    $(call unless-made,02_events/format+1+address+HASH+auth+HASH+fetch+HASH+each+HASH+page+HASH+headers+HASH+query+HASH) $(call if-old,30/exports/02_events/pages)
	mirror42-fetch 02_events

exports/01_campus/all.json: exports/01_campus/pages \
    $(call unless-made,01_campus/format+1+filter+HASH+with+HASH+key+HASH+duplicates+HASH+slurp+HASH+records+HASH)
	mirror42-extract 01_campus

exports/02_events/all.json exports/03_places/all.json &: exports/02_events/pages exports/01_campus/all.json \
    $(call unless-made,02_events/format+1+filter+HASH+with+HASH+key+HASH+duplicates+HASH+slurp+HASH+records+HASH) \
    $(call unless-made,03_places/format+1+filter+HASH+with+HASH+key+HASH+duplicates+HASH+slurp+HASH+records+HASH)
	mirror42-extract 02_events 03_places

exports/04_guests/all.json: exports/02_events/pages exports/01_campus/all.json exports/03_places/all.json \
    $(call unless-made,04_guests/format+1+filter+HASH+with+HASH+key+HASH+duplicates+HASH+slurp+HASH+records+HASH)
	mirror42-extract 04_guests

.mirror42/make/loaded: exports/01_campus/all.json exports/02_events/all.json exports/04_guests/all.json schema.sql pipeline.toml
	mirror42-load
	@mkdir -p $(@D) && touch $@

.mirror42/make/validated: .mirror42/make/loaded
	mirror42-validate
	@mkdir -p $(@D) && touch $@
