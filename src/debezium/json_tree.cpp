// A JSON text as a tree that keeps the order of names and the text of numbers, as Jackson reads it.
// Session's backend.
#include "debezium/json_tree.hpp"

namespace outbox::debezium {

namespace {

struct Builder {
    JsonNode* root;
    List* open;        // arrays and objects around the present place, the innermost last
    const char* name;  // of the member that comes next
};

JsonNode* replaced_member(JsonNode* object, const char* name) {
    for (JsonNode* member = object->first; member; member = member->next) {
        if (strcmp(member->name, name) == 0) return member;
    }
    return nullptr;
}

JsonNode* append(JsonNode* parent) {
    JsonNode* node = static_cast<JsonNode*>(palloc0(sizeof(JsonNode)));
    if (parent->last)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    ++parent->count;
    return node;
}

JsonNode* place(Builder* builder) {
    if (builder->open == NIL) {
        builder->root = static_cast<JsonNode*>(palloc0(sizeof(JsonNode)));
        return builder->root;
    }
    JsonNode* parent = static_cast<JsonNode*>(llast(builder->open));
    if (parent->kind != JsonNode::Kind::Object) return append(parent);
    JsonNode* node = replaced_member(parent, builder->name);
    if (node) {
        JsonNode* next = node->next;
        *node = {};
        node->next = next;
    } else {
        node = append(parent);
    }
    node->name = builder->name;
    return node;
}

void begin(void* state, JsonNode::Kind kind) {
    Builder* builder = static_cast<Builder*>(state);
    JsonNode* node = place(builder);
    node->kind = kind;
    builder->open = lappend(builder->open, node);
}
void end(void* state) {
    Builder* builder = static_cast<Builder*>(state);
    builder->open = list_delete_last(builder->open);
}

JsonNode::Kind kind_of_number(const char* text) {
    if (strpbrk(text, ".eE")) return JsonNode::Kind::Double;
    errno = 0;
    char* rest;
    long long number = strtoll(text, &rest, 10);
    if (errno == ERANGE) return JsonNode::Kind::BigInteger;
    return number >= PG_INT32_MIN && number <= PG_INT32_MAX ? JsonNode::Kind::Int32
                                                            : JsonNode::Kind::Int64;
}

void scalar(void* state, char* token, JsonTokenType type) {
    JsonNode* node = place(static_cast<Builder*>(state));
    node->text = token;
    switch (type) {
        case JSON_TOKEN_STRING:
            node->kind = JsonNode::Kind::String;
            break;
        case JSON_TOKEN_NUMBER:
            node->kind = kind_of_number(token);
            break;
        case JSON_TOKEN_NULL:
            node->kind = JsonNode::Kind::Null;
            break;
        default:
            node->kind = JsonNode::Kind::Boolean;
            node->boolean = type == JSON_TOKEN_TRUE;
    }
}

// Where the array or object at the beginning of `text` ends; `length` if it does not.
size_t end_of_first_value(const char* text, size_t length) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; ++i) {
        if (in_string) {
            if (text[i] == '\\')
                ++i;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '{' || text[i] == '[') {
            ++depth;
        } else if ((text[i] == '}' || text[i] == ']') && --depth == 0) {
            return i + 1;
        }
    }
    return length;
}

}  // namespace

JsonNode* read_json(const char* text, size_t length) {
    Builder builder = {};
    JsonSemAction actions = {};
    actions.semstate = &builder;
    actions.object_start = [](void* state) {
        begin(state, JsonNode::Kind::Object);
        return compat::json_action_done();
    };
    actions.object_end = [](void* state) {
        end(state);
        return compat::json_action_done();
    };
    actions.array_start = [](void* state) {
        begin(state, JsonNode::Kind::Array);
        return compat::json_action_done();
    };
    actions.array_end = [](void* state) {
        end(state);
        return compat::json_action_done();
    };
    actions.object_field_start = [](void* state, char* name, bool) {
        static_cast<Builder*>(state)->name = name;
        return compat::json_action_done();
    };
    actions.scalar = [](void* state, char* token, JsonTokenType type) {
        scalar(state, token, type);
        return compat::json_action_done();
    };
    size_t end_of_value = end_of_first_value(text, length);
    JsonLexContext* lexer =
        compat::json_lexer(const_cast<char*>(text), static_cast<int>(end_of_value));
    return pg_parse_json(lexer, &actions) == JSON_SUCCESS ? builder.root : nullptr;
}

}  // namespace outbox::debezium
