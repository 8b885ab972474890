#include "features/profile.h"

#include <algorithm>

namespace nearline::features {

bool Profile::Apply(const Event& event, const EventTypes& types,
                    const ProfileOptions& options) {
  const EventType& type = types[event.type];
  const float weight =
      static_cast<float>(types.Weight(event.type, event.value));
  const auto found =
      std::find_if(history_.rbegin(), history_.rend(),
                   [&](const HistoryEntry& e) { return e.item == event.item; });
  const bool known = found != history_.rend();
  if (weight > 0 && !known && truncated_ &&
      (!types.all_seen() || seen_.contains(event.item))) {
    return false;
  }
  if (type.seen || type.negative) seen_.add(event.item);
  if (type.negative) disliked_.add(event.item);
  sequence_ = event.sequence;
  ++events_;
  if (weight <= 0) return true;

  HistoryEntry entry{event.item, weight, event.time_micros, event.sequence};
  if (known) {
    entry.weight_sum += found->weight_sum;
    if (entry.OlderThan(*found)) {
      entry.time_micros = found->time_micros;
      entry.sequence = found->sequence;
    }
    history_.erase(std::next(found).base());
  }
  history_.insert(std::upper_bound(history_.begin(), history_.end(), entry,
                                   [](const auto& a, const auto& b) {
                                     return a.OlderThan(b);
                                   }),
                  entry);
  if (history_.size() > static_cast<size_t>(options.max_history)) {
    history_.erase(history_.begin());
    truncated_ = true;
  }
  return true;
}

std::shared_ptr<const Attributes> Shared(Attributes attributes) {
  if (attributes.empty()) return nullptr;
  return std::make_shared<const Attributes>(std::move(attributes));
}

int64_t BytesOf(const Attributes& attributes) {
  constexpr size_t kNode = 48;  // of the map, with the allocator's
  size_t bytes = sizeof(Attributes);
  for (const auto& [name, value] : attributes) {
    bytes += kNode + sizeof(std::string) + sizeof(Attribute) + name.size();
    if (const auto* text = std::get_if<std::string>(&value)) {
      bytes += text->size();
    } else if (const auto* texts =
                   std::get_if<std::vector<std::string>>(&value)) {
      for (const auto& t : *texts) bytes += sizeof(std::string) + t.size();
    } else if (const auto* numbers = std::get_if<std::vector<float>>(&value)) {
      bytes += numbers->size() * sizeof(float);
    }
  }
  return static_cast<int64_t>(bytes);
}

int64_t Profile::Bytes() const {
  return static_cast<int64_t>(
      sizeof(Profile) + (attributes_ == nullptr ? 0 : BytesOf(*attributes_)) +
      history_.capacity() * sizeof(HistoryEntry) +
      (seen_.isEmpty() ? 0 : seen_.getSizeInBytes(false)) +
      (disliked_.isEmpty() ? 0 : disliked_.getSizeInBytes(false)));
}

void Profile::Builder::Add(const Event& event) {
  const EventType& type = types_[event.type];
  if (type.seen || type.negative) profile_.seen_.add(event.item);
  if (type.negative) profile_.disliked_.add(event.item);
  profile_.sequence_ = std::max(profile_.sequence_, event.sequence);
  ++profile_.events_;
  const double weight = types_.Weight(event.type, event.value);
  if (weight > 0) {
    entries_.push_back({event.item, static_cast<float>(weight),
                        event.time_micros, event.sequence});
  }
}

Profile Profile::Builder::Build() && {
  // Stable, so that an item's weights are summed in the order of sequence, as
  // Apply sums them.
  std::stable_sort(
      entries_.begin(), entries_.end(),
      [](const auto& a, const auto& b) { return a.item < b.item; });
  auto& history = profile_.history_;
  for (const HistoryEntry& e : entries_) {
    if (history.empty() || history.back().item != e.item) {
      history.push_back(e);
      continue;
    }
    HistoryEntry& sum = history.back();
    const float weight = sum.weight_sum + e.weight_sum;
    if (sum.OlderThan(e)) sum = e;
    sum.weight_sum = weight;
  }
  std::sort(history.begin(), history.end(),
            [](const auto& a, const auto& b) { return a.OlderThan(b); });
  const size_t most = static_cast<size_t>(options_.max_history);
  if (history.size() > most) {
    history.erase(history.begin(),
                  history.end() - static_cast<std::ptrdiff_t>(most));
    profile_.truncated_ = true;
  }
  history.shrink_to_fit();
  profile_.seen_.runOptimize();
  profile_.seen_.shrinkToFit();
  return std::move(profile_);
}

}  // namespace nearline::features
