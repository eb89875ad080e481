// What Debezium's connector, its outbox router and Kafka Connect can be told, and what becomes of
// each option here. Session's backend.
//
// Names are those of Debezium 3.6 and of Kafka Connect 4.1.
#include "debezium/options.hpp"

extern "C" {
#include "utils/varlena.h"
}

namespace outbox::debezium {

namespace {

const char* const kOtherRecords = "It changes what a record holds.";

const Option kRouterOptions[] = {
    {"type", Fate::Router, nullptr},
    {"table.field.event.id", Fate::Router, nullptr},
    {"table.field.event.key", Fate::Router, nullptr},
    {"table.field.event.type", Fate::Router, nullptr},
    {"table.field.event.payload", Fate::Router, nullptr},
    {"table.field.event.timestamp", Fate::Router, nullptr},
    {"table.field.event.schema.version", Fate::Router, nullptr},
    {"table.fields.additional.placement", Fate::Router, nullptr},
    {"table.field.additional.missing", Fate::Router, nullptr},
    {"table.op.invalid.behavior", Fate::Router, nullptr},
    {"table.expand.json.payload", Fate::Router, nullptr},
    {"table.json.payload.null.behavior", Fate::Router, nullptr},
    {"table.json.payload.empty.array.behavior", Fate::Router, nullptr},
    {"route.by.field", Fate::Router, nullptr},
    {"route.topic.regex", Fate::Router, nullptr},
    {"route.topic.replacement", Fate::Router, nullptr},
    {"route.tombstone.on.empty.payload", Fate::Router, nullptr},
    {"tracing.span.context.field", Fate::Router, nullptr},
    {"tracing.operation.name", Fate::Needless, nullptr},
    {"tracing.with.context.field.only", Fate::Needless, nullptr},
    {"predicate", Fate::Refused,
     "Every row of the table is routed; give outbox.attach() a condition instead."},
    {"negate", Fate::Refused,
     "Every row of the table is routed; give outbox.attach() a condition instead."},
};

const Option kConnectorOptions[] = {
    {"key.converter", Fate::Router, nullptr},
    {"key.converter.schemas.enable", Fate::Router, nullptr},
    {"value.converter", Fate::Router, nullptr},
    {"value.converter.schemas.enable", Fate::Router, nullptr},
    {"value.converter.delegate.converter.type", Fate::Router, nullptr},
    {"value.converter.delegate.converter.type.schemas.enable", Fate::Router, nullptr},
    {"header.converter", Fate::Router, nullptr},
    {"key.converter.schemas.cache.size", Fate::Needless, nullptr},
    {"value.converter.schemas.cache.size", Fate::Needless, nullptr},
    {"key.converter.*", Fate::Refused, kOtherRecords},
    {"value.converter.*", Fate::Refused, kOtherRecords},
    {"header.converter.*", Fate::Refused, kOtherRecords},
    {"transforms", Fate::Router, nullptr},
    {"connector.class", Fate::Router, nullptr},
    {"topic.prefix", Fate::Router, nullptr},
    {"extended.headers.enabled", Fate::Router, nullptr},
    {"decimal.handling.mode", Fate::Router, nullptr},
    {"time.precision.mode", Fate::Router, nullptr},
    {"binary.handling.mode", Fate::Router, nullptr},
    {"field.name.adjustment.mode", Fate::Router, nullptr},
    {"schema.name.adjustment.mode", Fate::Router, nullptr},
    {"skipped.operations", Fate::Router, nullptr},
    {"topic.naming.strategy", Fate::Router, nullptr},
    {"tombstones.on.delete", Fate::Needless, nullptr},
    {"predicates", Fate::Refused, kOtherRecords},
    {"predicates.*", Fate::Refused, kOtherRecords},
    {"converters", Fate::Refused, kOtherRecords},
    {"column.mask.*", Fate::Refused, kOtherRecords},
    {"column.truncate.*", Fate::Refused, kOtherRecords},
    {"column.propagate.source.type", Fate::Refused, kOtherRecords},
    {"datatype.propagate.source.type", Fate::Refused, kOtherRecords},
    {"unavailable.value.placeholder", Fate::Needless, nullptr},
    {"hstore.handling.mode", Fate::Needless, nullptr},
    {"interval.handling.mode", Fate::Needless, nullptr},
    {"money.fraction.digits", Fate::Needless, nullptr},
    {"include.unknown.datatypes", Fate::Needless, nullptr},
    {"name", Fate::Needless, nullptr},
    {"tasks.max", Fate::Needless, nullptr},
    {"tasks.max.enforce", Fate::Needless, nullptr},
    {"plugin.name", Fate::Needless, nullptr},
    {"database.*", Fate::Needless, nullptr},
    {"driver.*", Fate::Needless, nullptr},
    {"slot.name", Fate::Needless, nullptr},
    {"slot.drop.on.stop", Fate::Needless, nullptr},
    {"slot.stream.params", Fate::Needless, nullptr},
    {"slot.max.retries", Fate::Needless, nullptr},
    {"slot.retry.delay.ms", Fate::Needless, nullptr},
    {"slot.failover", Fate::Needless, nullptr},
    {"slot.creation.timeout.ms", Fate::Needless, nullptr},
    {"slot.seek.to.known.offset.on.start", Fate::Needless, nullptr},
    {"publication.name", Fate::Needless, nullptr},
    {"publication.autocreate.mode", Fate::Needless, nullptr},
    {"publish.via.partition.root", Fate::Needless, nullptr},
    {"replica.identity.autoset.values", Fate::Needless, nullptr},
    {"schema.include.list", Fate::Needless, nullptr},
    {"schema.exclude.list", Fate::Needless, nullptr},
    {"table.include.list", Fate::Needless, nullptr},
    {"table.exclude.list", Fate::Needless, nullptr},
    {"table.ignore.builtin", Fate::Needless, nullptr},
    {"column.include.list", Fate::Needless, nullptr},
    {"column.exclude.list", Fate::Needless, nullptr},
    {"message.key.columns", Fate::Needless, nullptr},
    {"message.prefix.include.list", Fate::Needless, nullptr},
    {"message.prefix.exclude.list", Fate::Needless, nullptr},
    {"logical.decoding.message.prefix.include.list", Fate::Needless, nullptr},
    {"logical.decoding.message.prefix.exclude.list", Fate::Needless, nullptr},
    {"snapshot.*", Fate::Needless, nullptr},
    {"incremental.snapshot.*", Fate::Needless, nullptr},
    {"signal.*", Fate::Needless, nullptr},
    {"notification.*", Fate::Needless, nullptr},
    {"heartbeat.*", Fate::Needless, nullptr},
    {"max.batch.size", Fate::Needless, nullptr},
    {"max.queue.size", Fate::Needless, nullptr},
    {"max.queue.size.in.bytes", Fate::Needless, nullptr},
    {"poll.interval.ms", Fate::Needless, nullptr},
    {"query.fetch.size", Fate::Needless, nullptr},
    {"lsn.*", Fate::Needless, nullptr},
    {"flush.lsn.*", Fate::Needless, nullptr},
    {"status.update.interval.ms", Fate::Needless, nullptr},
    {"xmin.fetch.interval.ms", Fate::Needless, nullptr},
    {"offset.*", Fate::Needless, nullptr},
    {"read.only", Fate::Needless, nullptr},
    {"provide.transaction.metadata", Fate::Needless, nullptr},
    {"transaction.*", Fate::Needless, nullptr},
    {"exactly.once.support", Fate::Needless, nullptr},
    {"schema.refresh.mode", Fate::Needless, nullptr},
    {"skip.messages.without.change", Fate::Needless, nullptr},
    {"event.processing.failure.handling.mode", Fate::Needless, nullptr},
    {"errors.*", Fate::Needless, nullptr},
    {"retriable.restart.connector.wait.ms", Fate::Needless, nullptr},
    {"connection.validation.timeout.ms", Fate::Needless, nullptr},
    {"executor.shutdown.timeout.ms", Fate::Needless, nullptr},
    {"custom.metric.tags", Fate::Needless, nullptr},
    {"guardrail.*", Fate::Needless, nullptr},
    {"openlineage.*", Fate::Needless, nullptr},
    {"sourceinfo.struct.maker", Fate::Needless, nullptr},
    {"topic.delimiter", Fate::Router, nullptr},
    {"topic.cache.size", Fate::Needless, nullptr},
    {"topic.heartbeat.prefix", Fate::Needless, nullptr},
    {"topic.transaction", Fate::Needless, nullptr},
    {"topic.creation.*", Fate::Needless, nullptr},
    {"producer.override.partitioner.class", Fate::Refused,
     "Partitions are those of the default partitioner; give outbox.attach() a partition instead."},
    {"producer.override.*", Fate::Needless, nullptr},
    {"consumer.override.*", Fate::Needless, nullptr},
    {"admin.override.*", Fate::Needless, nullptr},
    {"post.processors", Fate::Refused, kOtherRecords},
    {"event.converting.failure.handling.mode", Fate::Needless, nullptr},
    {"streaming.delay.ms", Fate::Needless, nullptr},
    {"advanced.metrics.enable", Fate::Needless, nullptr},
    {"create.slot.command.timeout", Fate::Needless, nullptr},
    {"custom.retriable.exception", Fate::Needless, nullptr},
    {"config.action.reload", Fate::Needless, nullptr},
    {"config.providers", Fate::Needless, nullptr},
    {"config.providers.*", Fate::Needless, nullptr},
};

bool is_named(const Option& option, const char* name) {
    size_t length = strlen(option.name);
    if (option.name[length - 1] == '*') return strncmp(option.name, name, length - 1) == 0;
    return strcmp(option.name, name) == 0;
}

template <size_t kCount>
const Option* find(const Option (&options)[kCount], const char* name) {
    for (const Option& option : options) {
        if (is_named(option, name)) return &option;
    }
    return nullptr;
}

template <size_t kCount>
const char* nearest(const Option (&options)[kCount], const char* name, int* changes) {
    // Beyond this many characters nobody sees the likeness.
    constexpr int kMostChanges = 6;
    const char* found = nullptr;
    int fewest = kMostChanges + 1;
    int length = static_cast<int>(strlen(name));
    for (const Option& option : options) {
        int distance = varstr_levenshtein_less_equal(name, Min(length, 200), option.name,
                                                     static_cast<int>(strlen(option.name)), 1, 1, 1,
                                                     kMostChanges, true);
        if (distance >= fewest) continue;
        fewest = distance;
        found = option.name;
    }
    *changes = fewest;
    return found;
}

}  // namespace

const Option* find_router_option(const char* name) {
    return find(kRouterOptions, name);
}
const Option* find_connector_option(const char* name) {
    return find(kConnectorOptions, name);
}
const char* nearest_router_option(const char* name, int* changes) {
    return nearest(kRouterOptions, name, changes);
}
const char* nearest_connector_option(const char* name, int* changes) {
    return nearest(kConnectorOptions, name, changes);
}

}  // namespace outbox::debezium
