#include "features/dataset.h"

#include <algorithm>
#include <functional>

#include "base/hash.h"
#include "base/random.h"

namespace nearline::features {
namespace {

// Calls `visit` with all events of each user, in order of sequence.
absl::Status ForEachUser(
    const Store& store,
    const std::function<void(const std::vector<Event>&)>& visit) {
  std::vector<Event> of_user;
  Ordinal user = 0;
  Sequence after = 0;
  while (true) {
    ASSIGN_OR_RETURN(std::vector<Event> events,
                     store.ReadEvents(user, after, 50'000));
    if (events.empty()) break;
    user = events.back().user;
    after = events.back().sequence;
    for (Event& event : events) {
      if (!of_user.empty() && of_user.back().user != event.user) {
        visit(of_user);
        of_user.clear();
      }
      of_user.push_back(std::move(event));
    }
  }
  if (!of_user.empty()) visit(of_user);
  return absl::OkStatus();
}

// The part of an event that splitting looks at.
struct Light {
  Ordinal item;
  uint8_t type;
  float value;
  int64_t time_micros;
  Sequence sequence;
};
struct LightUser {
  Ordinal user;
  uint64_t hash = 0;  // of the id, and the seed
  std::shared_ptr<const Attributes> attributes;
  std::vector<Light> events;
};

Event ToEvent(Ordinal user, const Light& light) {
  Event event;
  event.user = user;
  event.item = light.item;
  event.type = light.type;
  event.value = light.value;
  event.time_micros = light.time_micros;
  event.sequence = light.sequence;
  return event;
}

class Splitter {
 public:
  Splitter(const Store& store, const SplitOptions& options,
           std::vector<LightUser> users)
      : store_(store), options_(options), users_(std::move(users)) {}

  Split Run() {
    ChooseCutoff();
    for (const LightUser& user : users_) {
      split_.events += static_cast<int64_t>(user.events.size());
      if (split_.kind == Split::Kind::kByTime) {
        AddByTime(user);
      } else {
        AddByUser(user);
      }
    }
    split_.users = static_cast<int64_t>(users_.size());
    Sample();
    return std::move(split_);
  }

 private:
  // Users with a first event of weight on an item at or after `cutoff`, and
  // something before it.
  int CountHoldout(int64_t cutoff) const {
    int count = 0;
    for (const LightUser& user : users_) {
      bool before = false, after = false;
      for (const Light& e : user.events) {
        before = before || e.time_micros < cutoff;
        after = after || (e.time_micros >= cutoff && Weight(e) > 0);
      }
      count += before && after;
    }
    return count;
  }

  void ChooseCutoff() {
    std::vector<int64_t> times;
    for (const LightUser& user : users_) {
      for (const Light& e : user.events) times.push_back(e.time_micros);
    }
    std::sort(times.begin(), times.end());
    int64_t longest = 0, run = 0;
    for (size_t i = 0; i < times.size(); ++i) {
      run = i > 0 && times[i] == times[i - 1] ? run + 1 : 1;
      longest = std::max(longest, run);
    }
    if (2 * longest > static_cast<int64_t>(times.size())) {
      split_.kind = Split::Kind::kByUser;
      return;
    }
    const auto at = [&](double share) {
      return times[static_cast<size_t>((1 - share) *
                                       static_cast<double>(times.size() - 1))];
    };
    double share = options_.holdout_share;
    int64_t cutoff = std::max(at(share), options_.not_before_micros);
    while (CountHoldout(cutoff) < options_.min_holdout_users && share < 0.5) {
      share = std::min(0.5, share * 1.5);
      cutoff = at(share);
    }
    split_.cutoff_micros = cutoff;
    split_.incumbent_saw_holdout = cutoff < options_.not_before_micros;
  }

  double Weight(const Light& e) const {
    return store_.event_types().Weight(e.type, e.value);
  }

  Profile Build(const LightUser& user,
                const std::function<bool(const Light&)>& keep) const {
    Profile::Builder builder(user.user, store_.event_types(),
                             store_.profile_options());
    builder.SetAttributes(user.attributes);
    for (const Light& e : user.events) {
      if (keep(e)) builder.Add(ToEvent(user.user, e));
    }
    return std::move(builder).Build();
  }

  void AddTraining(const Profile& profile) {
    if (profile.history().empty()) return;
    const auto cap = static_cast<float>(store_.profile_options().max_weight);
    for (const HistoryEntry& entry : profile.history()) {
      split_.train.items.push_back(entry.item);
      split_.train.weights.push_back(std::min(entry.weight_sum, cap));
    }
    split_.train.EndUser();
    split_.attributes.push_back(profile.attributes());
  }

  // What the user wanted among `events`, of what the profile does not know.
  void AddHoldout(Profile profile, std::vector<Ordinal> truth) {
    std::sort(truth.begin(), truth.end());
    truth.erase(std::unique(truth.begin(), truth.end()), truth.end());
    std::erase_if(truth, [&](Ordinal item) {
      return profile.seen().contains(item) || profile.disliked().contains(item);
    });
    if (truth.empty() || profile.events() == 0) return;
    split_.holdout.push_back({std::move(profile), std::move(truth)});
  }

  void AddByTime(const LightUser& user) {
    const int64_t cutoff = split_.cutoff_micros;
    Profile known =
        Build(user, [&](const Light& e) { return e.time_micros < cutoff; });
    AddTraining(known);
    std::vector<Ordinal> truth;
    for (const Light& e : user.events) {
      if (e.time_micros >= cutoff && Weight(e) > 0) truth.push_back(e.item);
    }
    if (!truth.empty()) AddHoldout(std::move(known), std::move(truth));
  }

  void AddByUser(const LightUser& user) {
    // By id, so that the incumbent held out the same users.
    const auto limit = static_cast<uint64_t>(options_.holdout_share * 0x1.0p53);
    if ((user.hash >> 11) >= limit) {
      AddTraining(Build(user, [](const Light&) { return true; }));
      return;
    }
    const auto hidden = [&](const Light& e) {
      return Random(user.hash ^ e.item).Below(5) == 0;
    };
    std::vector<Ordinal> truth;
    for (const Light& e : user.events) {
      if (hidden(e) && Weight(e) > 0) truth.push_back(e.item);
    }
    AddHoldout(Build(user, [&](const Light& e) { return !hidden(e); }),
               std::move(truth));
  }

  void Sample() {
    const auto most = static_cast<size_t>(options_.max_holdout_users);
    if (split_.holdout.size() <= most) return;
    Random random(options_.seed);
    for (size_t i = 0; i < most; ++i) {
      std::swap(split_.holdout[i],
                split_.holdout[i + random.Below(split_.holdout.size() - i)]);
    }
    split_.holdout.resize(most);
  }

  const Store& store_;
  const SplitOptions options_;
  const std::vector<LightUser> users_;
  Split split_;
};

}  // namespace

absl::StatusOr<Split> SplitLog(const Store& store,
                               const SplitOptions& options) {
  std::vector<LightUser> users;
  RETURN_IF_ERROR(ForEachUser(store, [&](const std::vector<Event>& events) {
    LightUser user{.user = events[0].user};
    user.events.reserve(events.size());
    for (const Event& e : events) {
      user.events.push_back({e.item, e.type, static_cast<float>(e.value),
                             e.time_micros, e.sequence});
    }
    users.push_back(std::move(user));
  }));
  if (users.empty()) {
    return absl::FailedPreconditionError(
        "the log holds no event; import or send some feedback first");
  }
  for (LightUser& user : users) {
    ASSIGN_OR_RETURN(User found, store.GetUser(user.user));
    user.hash = StableHash(found.id, options.seed);
    user.attributes = Shared(std::move(found.attributes));
  }
  return Splitter(store, options, std::move(users)).Run();
}

}  // namespace nearline::features
