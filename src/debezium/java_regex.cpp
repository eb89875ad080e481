// Java's regular expressions and replacements, as route.topic.regex and route.topic.replacement
// have them. Session's backend.
#include "debezium/java_regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace outbox::debezium {

// A replacement is a row of pieces: text, and groups.
struct Piece {
    int group;  // -1: text
    const char* text;
    size_t length;
};

struct Route {
    pcre2_code* code;
    pcre2_match_data* match;
    pcre2_match_context* limits;
    Piece* pieces;
    int piece_count;
};

namespace {

// Far beyond what any topic needs, and still over in some tens of milliseconds.
constexpr uint32_t kMostSteps = 1'000'000;
constexpr uint32_t kMostHeapKb = 4096;

void* allocate(PCRE2_SIZE size, void* context) {
    return MemoryContextAllocExtended(static_cast<MemoryContext>(context), size, MCXT_ALLOC_NO_OOM);
}
void release(void* block, void*) {
    if (block) pfree(block);
}

[[noreturn]] void raise_out_of_memory() {
    ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
                    errdetail("A regular expression could not be compiled.")));
}

// -- what Java and PCRE2 do not have in common
// --------------------------------------------------------

[[noreturn]] void raise_unsupported(const char* what) {
    ereport(ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
             errmsg("route.topic.regex uses %s, which is not supported", what),
             errdetail("Java understands it in a way of its own."),
             errhint("Write the expression without it: [A-Z] for \\p{Upper}, for example.")));
}

bool is_hex(const char* text, int count) {
    for (int i = 0; i < count; ++i) {
        if (!isxdigit(static_cast<unsigned char>(text[i]))) return false;
    }
    return true;
}

// Copies an escape, of which `at` is the character behind the backslash; returns where it ends.
const char* translate_escape(StringInfo out, const char* at) {
    if (*at == 'u' && is_hex(at + 1, 4)) {
        appendStringInfo(out, "\\x{%.4s}", at + 1);
        return at + 5;
    }
    bool letter = isalpha(static_cast<unsigned char>(*at)) != 0;
    if (*at == '0' || (letter && !strchr("dDwWsStnrfeaxAzZQEk", *at)))
        raise_unsupported(psprintf("\\%c", *at));
    appendStringInfoChar(out, '\\');
    if (*at) appendStringInfoChar(out, *at++);
    return at;
}

// \Q ... \E: as it is, to the end if there is none.
const char* copy_quoted(StringInfo out, const char* at) {
    const char* end = strstr(at, "\\E");
    const char* behind = end ? end + 2 : at + strlen(at);
    appendBinaryStringInfo(out, at, static_cast<int>(behind - at));
    return behind;
}

const char* translated(const char* regex) {
    StringInfoData out;
    initStringInfo(&out);
    bool in_class = false;
    for (const char* at = regex; *at;) {
        if (*at == '\\') {
            bool quoting = at[1] == 'Q';
            at = translate_escape(&out, at + 1);
            if (quoting) at = copy_quoted(&out, at);
            continue;
        }
        if (in_class && *at == '[') raise_unsupported("a class within a class");
        if (in_class && at[0] == '&' && at[1] == '&')
            raise_unsupported("an intersection of classes");
        if (!in_class && strncmp(at, "(?", 2) == 0) {
            size_t flags = strspn(at + 2, "idmsuxU-");
            if (flags > 0 && strcspn(at + 2, "duxU") < flags)
                raise_unsupported(psprintf("(?%.*s)", static_cast<int>(flags), at + 2));
        }
        if (*at == '[') in_class = true;
        if (*at == ']') in_class = false;
        appendStringInfoChar(&out, *at++);
    }
    return out.data;
}

// -- the replacement
// ------------------------------------------------------------------------------------

[[noreturn]] void raise_replacement(const char* replacement, const char* detail) {
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("route.topic.replacement \"%s\" is not valid", replacement),
             errdetail("%s", detail),
             errhint("${name} and $1 stand for groups of route.topic.regex, \\$ for a dollar "
                     "sign.")));
}

class ReplacementReader {
  public:
    ReplacementReader(Route* route, const char* replacement)
        : route_(route), whole_(replacement), at_(replacement) {
        (void)pcre2_pattern_info(route->code, PCRE2_INFO_CAPTURECOUNT, &groups_);
        route->pieces = static_cast<Piece*>(palloc(sizeof(Piece) * (2 * strlen(replacement) + 1)));
    }

    void read() {
        StringInfoData text;
        initStringInfo(&text);
        while (*at_) {
            if (*at_ == '$') {
                end_text(&text);
                route_->pieces[route_->piece_count++] = Piece{read_group(), nullptr, 0};
                continue;
            }
            if (*at_ == '\\' && *++at_ == '\0') raise("It ends with a backslash.");
            appendStringInfoChar(&text, *at_++);
        }
        end_text(&text);
    }

  private:
    [[noreturn]] void raise(const char* detail) { raise_replacement(whole_, detail); }

    void end_text(StringInfo text) {
        if (text->len == 0) return;
        route_->pieces[route_->piece_count++] =
            Piece{-1, pstrdup(text->data), static_cast<size_t>(text->len)};
        resetStringInfo(text);
    }

    int read_group() {
        ++at_;
        if (*at_ == '{') return read_name();
        if (*at_ < '0' || *at_ > '9') raise("No group follows a dollar sign.");
        // As many digits as make a group that there is.
        uint32_t group = static_cast<uint32_t>(*at_++ - '0');
        if (group > groups_) raise(psprintf("There is no group %u.", group));
        while (*at_ >= '0' && *at_ <= '9' &&
               group * 10 + static_cast<uint32_t>(*at_ - '0') <= groups_)
            group = group * 10 + static_cast<uint32_t>(*at_++ - '0');
        return static_cast<int>(group);
    }

    int read_name() {
        const char* end = strchr(at_, '}');
        if (!end) raise("The name of a group has no end.");
        const char* name = pnstrdup(at_ + 1, static_cast<Size>(end - at_ - 1));
        at_ = end + 1;
        int group =
            pcre2_substring_number_from_name(route_->code, reinterpret_cast<PCRE2_SPTR>(name));
        if (group < 0) raise(psprintf("There is no group called \"%s\".", name));
        return group;
    }

    Route* route_;
    const char* whole_;
    const char* at_;
    uint32_t groups_ = 0;
};

// Whether there is a match; its groups are then in route->match.
bool matches(const Route* route, const char* value, size_t length, uint32_t options) {
    int found = pcre2_match(route->code, reinterpret_cast<PCRE2_SPTR>(value), length, 0, options,
                            route->match, route->limits);
    if (found > 0) return true;
    if (found == PCRE2_ERROR_NOMATCH) return false;
    char reason[200];
    (void)pcre2_get_error_message(found, reinterpret_cast<PCRE2_UCHAR*>(reason), sizeof(reason));
    ereport(ERROR, (errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
                    errmsg("could not match route.topic.regex with \"%.*s\"",
                           static_cast<int>(Min(length, 100)), value),
                    errdetail("%s", reason), errhint("A simpler expression takes less time.")));
}

}  // namespace

Route* compile_route(const char* regex, const char* replacement) {
    pcre2_general_context* memory =
        pcre2_general_context_create(allocate, release, CurrentMemoryContext);
    if (!memory) raise_out_of_memory();
    pcre2_compile_context* context = pcre2_compile_context_create(memory);
    if (!context) raise_out_of_memory();
    (void)pcre2_set_newline(context, PCRE2_NEWLINE_ANY);
    int error;
    PCRE2_SIZE offset;
    Route* route = static_cast<Route*>(palloc0(sizeof(Route)));
    route->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated(regex)),
                                PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &offset, context);
    if (!route->code) {
        char reason[200];
        (void)pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(reason),
                                      sizeof(reason));
        ereport(ERROR, (errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
                        errmsg("route.topic.regex \"%s\" is not valid", regex),
                        errdetail("%s, near character %zu.", reason, offset)));
    }
    route->match = pcre2_match_data_create_from_pattern(route->code, memory);
    route->limits = pcre2_match_context_create(memory);
    if (!route->match || !route->limits) raise_out_of_memory();
    (void)pcre2_set_match_limit(route->limits, kMostSteps);
    (void)pcre2_set_heap_limit(route->limits, kMostHeapKb);
    ReplacementReader(route, replacement).read();
    return route;
}

const char* topic_of(const Route* route, const char* value, size_t length, size_t* topic_length) {
    // First all of it, then whatever the expression finds first, which may be less.
    if (!matches(route, value, length, PCRE2_ANCHORED | PCRE2_ENDANCHORED) ||
        !matches(route, value, length, 0)) {
        *topic_length = length;
        return value;
    }
    const PCRE2_SIZE* places = pcre2_get_ovector_pointer(route->match);
    uint32_t groups = pcre2_get_ovector_count(route->match);
    StringInfoData topic;
    initStringInfo(&topic);
    appendBinaryStringInfo(&topic, value, static_cast<int>(places[0]));
    for (int i = 0; i < route->piece_count; ++i) {
        const Piece& piece = route->pieces[i];
        if (piece.group < 0) {
            appendBinaryStringInfo(&topic, piece.text, static_cast<int>(piece.length));
            continue;
        }
        size_t group = static_cast<size_t>(piece.group);
        if (group >= groups || places[2 * group] == PCRE2_UNSET) continue;
        appendBinaryStringInfo(&topic, value + places[2 * group],
                               static_cast<int>(places[2 * group + 1] - places[2 * group]));
    }
    appendBinaryStringInfo(&topic, value + places[1], static_cast<int>(length - places[1]));
    *topic_length = static_cast<size_t>(topic.len);
    return topic.data;
}

}  // namespace outbox::debezium
