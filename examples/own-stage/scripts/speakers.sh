#!/bin/sh
# How many campuses speak a language, and how many people there are: a join of two exports, which are JSON with one record a
# line, so that awk is enough.
set -eu

awk '
    # The value of a member, as it is written.
    function member(name) {
        if (!match($0, "\"" name "\":(\"([^\"\\\\]|\\\\.)*\"|[^,}]*)")) return "null"
        return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
    }
    !/^[{]/ { next }
    FILENAME == ARGV[1] {
        language = member("language_id")
        campuses[language]++
        users[language] += member("users_count")
        next
    }
    {
        language = member("id")
        printf "{\"language_id\":%s,\"language\":%s,\"campuses\":%d,\"users\":%d}\n",
            language, member("name"), campuses[language], users[language]
    }
' "$MIRROR42_INPUT_CAMPUS" "$MIRROR42_INPUT_LANGUAGES" >"$MIRROR42_OUTPUT"

echo "counted $(wc -l <"$MIRROR42_OUTPUT" | tr -d ' ') languages"
