#include "features/catalogue.h"

#include <utility>

namespace nearline::features {

bool Catalogue::ComputeServable(const ItemRecord& item) const {
  if (item.deleted) return false;
  return item.listed ||
         (established_after_ > 0 &&
          item.seen_by.size() >= static_cast<size_t>(established_after_));
}

void Catalogue::Index(Ordinal ordinal, const Attributes& attributes, bool add) {
  const auto text = [&](const std::string& name, const std::string& value) {
    Bitmap& items = text_[name][value];
    if (add) {
      items.add(ordinal);
    } else {
      items.remove(ordinal);
      if (items.isEmpty()) text_[name].erase(value);
    }
  };
  for (const auto& [name, value] : attributes) {
    if (const auto* s = std::get_if<std::string>(&value)) {
      text(name, *s);
    } else if (const auto* l = std::get_if<std::vector<std::string>>(&value)) {
      for (const std::string& s : *l) text(name, s);
    } else if (const auto* n = std::get_if<double>(&value)) {
      if (add) {
        numbers_[name].emplace(*n, ordinal);
      } else {
        numbers_[name].erase({*n, ordinal});
      }
    }
  }
}

void Catalogue::Put(Ordinal ordinal, ItemRecord record) {
  if (ordinal == items_.size()) {
    items_.push_back({.id = record.id});
    by_id_.emplace(items_.back().id, ordinal);
  }
  ItemRecord& item = items_[ordinal];
  const bool was_listed = item.listed && !item.deleted;
  const bool was_servable = servable_.contains(ordinal);
  const bool same_attributes = item.attributes == record.attributes;
  if (!same_attributes) {
    Index(ordinal, item.attributes, false);
    Index(ordinal, record.attributes, true);
    item.attributes = std::move(record.attributes);
  }
  item.listed = record.listed;
  item.deleted = record.deleted;
  item.seen_by = std::move(record.seen_by);
  if (item.seen_by.empty()) {
    marked_.remove(ordinal);
  } else {
    marked_.add(ordinal);
  }

  const bool listed = item.listed && !item.deleted;
  if (listed && !was_listed) {
    order_.emplace(item.id, ordinal);
    ++listed_;
  } else if (!listed && was_listed) {
    order_.erase(item.id);
    --listed_;
  }
  const bool servable = ComputeServable(item);
  if (servable) servable_.add(ordinal);
  if (!servable) servable_.remove(ordinal);
  if (servable != was_servable || !same_attributes) ++version_;
}

Ordinal Catalogue::Find(absl::string_view id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? kNoOrdinal : it->second;
}

std::vector<Ordinal> Catalogue::ListAfter(absl::string_view after,
                                          int count) const {
  std::vector<Ordinal> out;
  for (auto it = order_.upper_bound(after);
       it != order_.end() && out.size() < static_cast<size_t>(count); ++it) {
    out.push_back(it->second);
  }
  return out;
}

const Bitmap& Catalogue::WithText(const std::string& attribute,
                                  const std::string& value) const {
  static const Bitmap none;
  const auto column = text_.find(attribute);
  if (column == text_.end()) return none;
  const auto items = column->second.find(value);
  return items == column->second.end() ? none : items->second;
}

Bitmap Catalogue::WithNumber(const std::string& attribute, double low,
                             double high) const {
  Bitmap out;
  const auto column = numbers_.find(attribute);
  if (column == numbers_.end()) return out;
  for (auto it = column->second.lower_bound({low, 0});
       it != column->second.end() && it->first <= high; ++it) {
    out.add(it->second);
  }
  return out;
}

namespace {

// Without regard to servability, which Evaluate adds once at the end; only the
// complement needs a universe.
Bitmap Matches(const Filter& filter, const Catalogue& catalogue) {
  Bitmap out;
  switch (filter.kind) {
    case Filter::Kind::kAll:
      out = catalogue.servable();
      for (const Filter& child : filter.children) {
        out &= Matches(child, catalogue);
      }
      return out;
    case Filter::Kind::kAny:
      for (const Filter& child : filter.children) {
        out |= Matches(child, catalogue);
      }
      return out;
    case Filter::Kind::kNot:
      return catalogue.servable() - Matches(filter.children[0], catalogue);
    case Filter::Kind::kText:
      for (const std::string& value : filter.values) {
        out |= catalogue.WithText(filter.attribute, value);
      }
      return out;
    case Filter::Kind::kRange:
      return catalogue.WithNumber(filter.attribute, filter.low, filter.high);
  }
  return out;
}

}  // namespace

Bitmap Evaluate(const Filter& filter, const Catalogue& catalogue) {
  return Matches(filter, catalogue) & catalogue.servable();
}

}  // namespace nearline::features
