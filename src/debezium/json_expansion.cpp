// table.expand.json.payload: a text becomes a structure with a schema that is inferred from it.
// Session's backend.
//
// First the schema of the whole, then the values, which have to fit it. Nulls and empty arrays have
// no schema, and so no field. An array has its first element's schema. Objects in an array that
// differ have all of their fields, each of which keeps the schema that it is first seen with; such
// a structure can no longer be null. (Debezium goes through their schemas in an order that changes
// from run to run; here it is that of the text.)
#include "debezium/json_expansion.hpp"

#include "debezium/json_tree.hpp"

namespace outbox::debezium {

namespace {

const Schema kString = {.type = Type::String, .optional = true};
const Schema kBoolean = {.type = Type::Boolean, .optional = true};
const Schema kInt32 = {.type = Type::Int32, .optional = true};
const Schema kInt64 = {.type = Type::Int64, .optional = true};
const Schema kFloat64 = {.type = Type::Float64, .optional = true};
const Schema kBytes = {.type = Type::Bytes, .optional = true};

Schema* made(Schema schema) {
    Schema* copy = static_cast<Schema*>(palloc(sizeof(Schema)));
    *copy = schema;
    return copy;
}

bool same(const Schema* left, const Schema* right) {
    check_stack_depth();
    if (left == right) return true;
    if (left->type != right->type || left->optional != right->optional ||
        left->field_count != right->field_count || !left->name != !right->name)
        return false;
    if (left->name && strcmp(left->name, right->name) != 0) return false;
    if (left->type == Type::Array) return same(left->element, right->element);
    for (int i = 0; i < left->field_count; ++i) {
        if (strcmp(left->fields[i].name, right->fields[i].name) != 0 ||
            !same(left->fields[i].schema, right->fields[i].schema))
            return false;
    }
    return true;
}

bool is_among(const List* schemas, const Schema* schema) {
    ListCell* cell;
    foreach (cell, schemas) {
        if (same(static_cast<const Schema*>(lfirst(cell)), schema)) return true;
    }
    return false;
}

class Inference {
  public:
    explicit Inference(ExpansionRules rules) : rules_(rules) {}

    bool failed() const { return failed_; }

    // nullptr: has none, which is no failure.
    const Schema* schema_of(const char* name, const JsonNode* node) {
        check_stack_depth();
        switch (node->kind) {
            case JsonNode::Kind::String:
                return &kString;
            case JsonNode::Kind::Boolean:
                return &kBoolean;
            case JsonNode::Kind::Int32:
                return &kInt32;
            case JsonNode::Kind::Int64:
                return &kInt64;
            case JsonNode::Kind::BigInteger:
            case JsonNode::Kind::Double:
                return &kFloat64;
            case JsonNode::Kind::Array:
                return schema_of_array(name, node);
            case JsonNode::Kind::Object:
                return schema_of_object(name, node);
            case JsonNode::Kind::Null:
                break;
        }
        return rules_.keeps_nulls ? &kBytes : nullptr;
    }

  private:
    const Schema* array_of(const Schema* element) {
        return made({.type = Type::Array, .optional = true, .element = element});
    }

    const Schema* schema_of_array(const char* name, const JsonNode* array) {
        if (array->count == 0) return rules_.keeps_empty_arrays ? array_of(&kString) : nullptr;
        const JsonNode* sample = first_element(array);
        const Schema* element = nullptr;
        if (failed_) return nullptr;
        if (sample && sample->kind == JsonNode::Kind::Object) {
            List* seen = NIL;
            for (const JsonNode* one = array->first; one; one = one->next) {
                if (one->kind != JsonNode::Kind::Object) continue;
                const Schema* schema = schema_of_object(name, one);
                if (is_among(seen, schema)) continue;
                seen = lappend(seen, const_cast<Schema*>(schema));
                element = merged(element, schema);
            }
        } else if (sample) {
            element = schema_of(nullptr, sample);
        } else if (rules_.keeps_nulls) {
            element = &kBytes;
        }
        if (!element) failed_ = true;
        return failed_ ? nullptr : array_of(element);
    }

    // The first element that is not null, all others being of its kind; nullptr: there is none.
    const JsonNode* first_element(const JsonNode* array) {
        const JsonNode* found = nullptr;
        for (const JsonNode* one = array->first; one; one = one->next) {
            if (one->kind == JsonNode::Kind::Null) continue;
            if (!found) found = one;
            bool alike = found->is_number() ? one->is_number() && schema_of(nullptr, one) ==
                                                                      schema_of(nullptr, found)
                                            : one->kind == found->kind;
            if (!alike) failed_ = true;
        }
        return found;
    }

    const Schema* schema_of_object(const char* name, const JsonNode* object) {
        Schema* schema = made({.type = Type::Struct, .optional = true, .name = name});
        Field* fields =
            static_cast<Field*>(palloc(sizeof(Field) * static_cast<size_t>(Max(object->count, 1))));
        for (const JsonNode* member = object->first; member; member = member->next) {
            const char* path = name && *name ? psprintf("%s.%s", name, member->name) : member->name;
            const Schema* field = schema_of(path, member);
            if (field) fields[schema->field_count++] = Field{member->name, field};
        }
        schema->fields = fields;
        return schema;
    }

    static const Schema* merged(const Schema* left, const Schema* right) {
        if (!left) return right;
        Schema* schema = made(*left);
        schema->optional = false;
        Field* fields = static_cast<Field*>(palloc(
            sizeof(Field) * static_cast<size_t>(Max(left->field_count + right->field_count, 1))));
        for (int i = 0; i < left->field_count; ++i)
            fields[i] = left->fields[i];
        for (int i = 0; i < right->field_count; ++i) {
            const Field& field = right->fields[i];
            int at = 0;
            while (at < schema->field_count && strcmp(fields[at].name, field.name) != 0)
                ++at;
            if (at == schema->field_count)
                fields[schema->field_count++] = field;
            else if (fields[at].schema->type == Type::Bytes)
                fields[at] = field;
        }
        schema->fields = fields;
        return schema;
    }

    ExpansionRules rules_;
    bool failed_ = false;
};

// False where the node does not fit the schema.
bool value_of(const JsonNode* node, const Schema* schema, Value* value) {
    check_stack_depth();
    *value = {};
    switch (node->kind) {
        case JsonNode::Kind::Null:
            value->null = true;
            return schema->optional;
        case JsonNode::Kind::String:
            *value = text_value(node->text, strlen(node->text));
            return schema->type == Type::String;
        case JsonNode::Kind::Boolean:
            value->boolean = node->boolean;
            return schema->type == Type::Boolean;
        case JsonNode::Kind::Int32:
            value->integer = strtoll(node->text, nullptr, 10);
            return schema->type == Type::Int32;
        case JsonNode::Kind::Int64:
            value->integer = strtoll(node->text, nullptr, 10);
            return schema->type == Type::Int64;
        case JsonNode::Kind::Double:
            value->float64 = strtod(node->text, nullptr);
            return schema->type == Type::Float64;
        case JsonNode::Kind::BigInteger:
            return false;
        case JsonNode::Kind::Array:
        case JsonNode::Kind::Object:
            break;
    }
    bool object = node->kind == JsonNode::Kind::Object;
    if (schema->type != (object ? Type::Struct : Type::Array)) return false;
    int count = object ? schema->field_count : node->count;
    Value* items = static_cast<Value*>(palloc(sizeof(Value) * static_cast<size_t>(Max(count, 1))));
    value->list = {items, count};
    if (!object) {
        int i = 0;
        for (const JsonNode* one = node->first; one; one = one->next) {
            if (!value_of(one, schema->element, &items[i++])) return false;
        }
        return true;
    }
    for (int i = 0; i < count; ++i) {
        const JsonNode* member = node->first;
        while (member && strcmp(member->name, schema->fields[i].name) != 0)
            member = member->next;
        items[i] = null_value();
        if (member && !value_of(member, schema->fields[i].schema, &items[i])) return false;
    }
    return true;
}

}  // namespace

bool expand_json(const char* text, size_t length, const char* name, ExpansionRules rules,
                 const Schema** schema, Value* value) {
    // Not even white space may come before it.
    if (length == 0 || *text != '{') return false;
    const JsonNode* tree = read_json(text, length);
    if (!tree) return false;
    Inference inference(rules);
    const Schema* found = inference.schema_of(name, tree);
    Value expanded;
    if (inference.failed() || !value_of(tree, found, &expanded)) return false;
    *schema = found;
    *value = expanded;
    return true;
}

}  // namespace outbox::debezium
