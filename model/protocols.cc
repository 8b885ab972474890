#include "model/protocols.h"

#include <algorithm>
#include <climits>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/hash.h"
#include "base/random.h"
#include "base/text.h"
#include "model/attributes_file.h"

namespace nearline::model {
namespace {

using features::Interactions;
using Ids = std::vector<std::string>;

// Errors: INVALID_ARGUMENT for an option that the protocol needs.
absl::Status Require(const ProtocolFiles& files, const std::string& value,
                     const char* option) {
  if (!value.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("protocol ", files.protocol, " needs ", option));
}

// Sorts what is wanted.
void SetTruth(std::vector<std::pair<Row, float>> truth, Case* c,
              CaseRatings* ratings) {
  std::sort(truth.begin(), truth.end());
  for (const auto& [row, value] : truth) {
    c->truth.push_back(row);
    ratings->truth.push_back(value);
  }
}

// Reads an experiment's files.
class Reader {
 public:
  explicit Reader(const ProtocolFiles& files) : files_(files) {}

  absl::StatusOr<ProtocolData> Run() {
    data_.protocol = files_.protocol;
    RETURN_IF_ERROR(CheckOptions());
    ASSIGN_OR_RETURN(const UserItems train, Read(files_.train));
    RETURN_IF_ERROR(NumberItems(train));
    rated_ = train.rated;
    data_.set.in_order = files_.in_order || train.timed;
    for (const UserLines& lines : train.lines) {
      Append(lines, &data_.set.train, &data_.train_ratings, &data_.set.times);
    }
    RETURN_IF_ERROR(ReadUsers(train.users));
    if (data_.set.items == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(files_.train, ": no line is left to learn from"));
    }
    if (files_.protocol == "strong") {
      RETURN_IF_ERROR(PrepareStrong());
    } else if (files_.protocol == "full") {
      RETURN_IF_ERROR(PrepareRanking(files_.train, files_.test));
    } else {
      RETURN_IF_ERROR(PrepareSampled());
    }
    if (data_.cases.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(files_.test.empty() ? files_.test_target : files_.test,
                       ": no user is left to test"));
    }
    if (!rated_) {
      data_.train_ratings.clear();
      data_.ratings.clear();
    }
    Remark();
    return std::move(data_);
  }

 private:
  absl::Status CheckOptions() const {
    if (files_.protocol == "strong") {
      RETURN_IF_ERROR(Require(files_, files_.test_input, "--test-input"));
      RETURN_IF_ERROR(Require(files_, files_.test_target, "--test-target"));
      if (files_.validation_input.empty() == files_.validation_target.empty()) {
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(
          Require(files_, files_.validation_input, "--validation-input"));
      return Require(files_, files_.validation_target, "--validation-target");
    }
    if (files_.protocol != "full" && files_.protocol != "sampled") {
      return absl::InvalidArgumentError(
          absl::StrCat("protocol ", Quoted(files_.protocol),
                       ": expected strong, full or sampled"));
    }
    RETURN_IF_ERROR(Require(files_, files_.test, "--test"));
    if (files_.protocol == "full") return absl::OkStatus();
    return Require(files_, files_.negatives, "--negatives");
  }

  absl::StatusOr<UserItems> Read(const std::string& path) const {
    return ReadUserItems(path, files_.format, files_.min_value);
  }

  absl::Status NumberItems(const UserItems& train) {
    std::set<std::string> ids;
    for (const UserLines& lines : train.lines) {
      ids.insert(lines.items.begin(), lines.items.end());
    }
    data_.items.assign(ids.begin(), ids.end());
    data_.set.items = static_cast<int64_t>(data_.items.size());
    if (!files_.item_attributes.empty()) {
      ASSIGN_OR_RETURN(auto attributes,
                       ReadAttributes(files_.item_attributes, "item"));
      size_t trained = 0, known = 0;
      for (const auto& [id, of_item] : attributes) {
        if (!ids.contains(id)) {
          data_.items.push_back(id);
        } else {
          ++trained;
          known += !of_item.empty();
        }
      }
      RETURN_IF_ERROR(CheckKnown(files_.item_attributes, "items", trained,
                                 known, ids.size()));
      for (const std::string& id : data_.items) {
        data_.attributes.push_back(std::move(attributes[id]));
      }
      for (size_t row = ids.size(); row < data_.items.size(); ++row) {
        data_.set.untouched += !data_.attributes[row].empty();
      }
      for (size_t row = 0; row < ids.size(); ++row) {
        data_.set.attributes.push_back(&data_.attributes[row]);
      }
    }
    for (size_t row = 0; row < data_.items.size(); ++row) {
      row_of_[data_.items[row]] = static_cast<Row>(row);
    }
    return absl::OkStatus();
  }

  absl::Status ReadUsers(const std::vector<std::string>& trained) {
    if (files_.user_attributes.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(auto attributes,
                     ReadAttributes(files_.user_attributes, "user"));
    data_.user_attributes =
        std::make_shared<const std::map<std::string, features::Attributes>>(
            std::move(attributes));
    size_t listed = 0, known = 0;
    for (const std::string& user : trained) {
      const features::Attributes* const of_user = AttributesOf(user);
      data_.set.user_attributes.push_back(of_user);
      listed += of_user != nullptr;
      known += of_user != nullptr && !of_user->empty();
    }
    return CheckKnown(files_.user_attributes, "users", listed, known,
                      trained.size());
  }
  // Of `all` items or users with training lines, `listed` are in the file, and
  // of `known` it says something.
  absl::Status CheckKnown(const std::string& path, absl::string_view what,
                          size_t listed, size_t known, size_t all) {
    if (listed == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": none of the ", what,
                       " has a training line; the same ids are needed in all "
                       "files"));
    }
    if (known < all) {
      data_.remarks.push_back(absl::StrCat(path, " has attributes of ", known,
                                           " of ", all, " ", what,
                                           " with training lines"));
    }
    return absl::OkStatus();
  }
  // Null for none.
  const features::Attributes* AttributesOf(const std::string& user) const {
    if (data_.user_attributes == nullptr) return nullptr;
    const auto it = data_.user_attributes->find(user);
    return it == data_.user_attributes->end() ? nullptr : &it->second;
  }

  // Lines of the items that are known.
  struct Rows {
    std::vector<Row> rows;
    std::vector<float> values;
    std::vector<double> times;  // empty where lines have none
  };
  Rows RowsOf(const UserLines& lines) const {
    Rows out;
    for (size_t i = 0; i < lines.items.size(); ++i) {
      const auto it = row_of_.find(lines.items[i]);
      if (it == row_of_.end()) continue;
      out.rows.push_back(it->second);
      out.values.push_back(lines.values[i]);
      if (!lines.times.empty()) out.times.push_back(lines.times[i]);
    }
    return out;
  }

  void Append(const UserLines& lines, Interactions* to,
              std::vector<float>* ratings = nullptr,
              std::vector<double>* times = nullptr) const {
    const Rows known = RowsOf(lines);
    for (size_t i = 0; i < known.rows.size(); ++i) {
      const Row row = known.rows[i];
      if (row >= data_.set.items) continue;  // known by attributes alone
      to->items.push_back(row);
      to->weights.push_back(1.0f);
      if (ratings != nullptr) ratings->push_back(known.values[i]);
      if (times != nullptr && !known.times.empty()) {
        times->push_back(known.times[i]);
      }
    }
    to->EndUser();
  }

  // The newest lines, as many as the limit allows.
  Rows NewestOf(const Rows& known) const {
    const size_t all = known.rows.size();
    const auto limit = std::min(
        all, static_cast<size_t>(files_.history_limit.value_or(INT_MAX)));
    const auto rest = static_cast<std::ptrdiff_t>(all - limit);
    return {{known.rows.begin() + rest, known.rows.end()},
            {known.values.begin() + rest, known.values.end()},
            {}};
  }

  // Pairs the users of two files; those without a target are left out.
  absl::Status ForEachPair(const std::string& input_path,
                           const std::string& target_path,
                           const std::function<absl::Status(
                               const std::string& user, const UserLines& input,
                               const UserLines& target)>& visit) {
    ASSIGN_OR_RETURN(const UserItems input, Read(input_path));
    ASSIGN_OR_RETURN(const UserItems target, Read(target_path));
    absl::flat_hash_map<std::string, size_t> inputs;
    for (size_t i = 0; i < input.users.size(); ++i) inputs[input.users[i]] = i;
    static const UserLines nothing;
    rated_ = rated_ && input.rated && target.rated;
    data_.set.in_order = files_.in_order || (data_.set.in_order && input.timed);
    int64_t older = 0, pairs = 0;
    for (size_t i = 0; i < target.users.size(); ++i) {
      const auto it = inputs.find(target.users[i]);
      const UserLines& lines =
          it == inputs.end() ? nothing : input.lines[it->second];
      if (input.timed && target.timed && !lines.items.empty()) {
        ++pairs;
        older += target.lines[i].times.front() < lines.times.back();
      }
      RETURN_IF_ERROR(visit(target.users[i], lines, target.lines[i]));
    }
    constexpr double kByChance = 0.25;  // of the users
    if (data_.set.in_order && !files_.in_order &&
        static_cast<double>(older) > kByChance * static_cast<double>(pairs)) {
      data_.set.in_order = false;
      data_.remarks.push_back(absl::StrCat(
          "of ", older, " of ", pairs, " users, lines of ", target_path,
          " are older than the last of ", input_path,
          ": these were not divided by time, and models do not heed the order "
          "of lines (--in-order: they do)"));
    }
    return absl::OkStatus();
  }

  absl::Status PrepareStrong() {
    if (!files_.validation_input.empty()) {
      RETURN_IF_ERROR(ForEachPair(
          files_.validation_input, files_.validation_target,
          [&](const auto&, const UserLines& input, const UserLines& target) {
            Append(input, &data_.set.validation_input);
            Append(target, &data_.set.validation_target);
            return absl::OkStatus();
          }));
    }
    return PrepareRanking(files_.test_input, files_.test_target);
  }

  // Every item but those of the input is a candidate.
  absl::Status PrepareRanking(const std::string& input_path,
                              const std::string& target_path) {
    return ForEachPair(input_path, target_path,
                       [&](const std::string& user, const UserLines& input,
                           const UserLines& target) {
                         const Rows known = RowsOf(input);
                         Case c{.mask = RowMask(data_.items.size(), true)};
                         for (const Row row : known.rows) c.mask.Clear(row);
                         AddCase(user, std::move(c), known, target);
                         return absl::OkStatus();
                       });
  }

  absl::Status PrepareSampled() {
    ASSIGN_OR_RETURN(const auto negatives, ReadNegatives(files_.negatives));
    return ForEachPair(
        files_.train, files_.test,
        [&](const std::string& user, const UserLines& input,
            const UserLines& target) {
          const auto it = negatives.find(user);
          RETURN_IF_ERROR(CheckNegatives(
              user, target, it == negatives.end() ? nullptr : &it->second));
          data_.test_digest = StableHash(absl::StrJoin(it->second.items, "\t"),
                                         data_.test_digest);
          Case c{.mask = RowMask(data_.items.size())};
          UserLines candidates = target;
          candidates.items.insert(candidates.items.end(),
                                  it->second.items.begin(),
                                  it->second.items.end());
          candidates.values.resize(candidates.items.size());
          for (const Row row : RowsOf(candidates).rows) {
            if (c.mask[row]) c.repeats.push_back(row);
            c.mask.Set(row);
          }
          AddCase(user, std::move(c), RowsOf(input), target);
          return absl::OkStatus();
        });
  }

  // What is asked against nothing would be found. `listed` may be null.
  absl::Status CheckNegatives(const std::string& user, const UserLines& target,
                              const Negatives* listed) {
    if (target.items.size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          files_.test, ": user ", Quoted(user), " has ", target.items.size(),
          " items; protocol sampled asks one a user (full: any number)"));
    }
    if (listed == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(files_.negatives, ": no line of user ", Quoted(user),
                       ", whom ", files_.test, " has"));
    }
    const std::string where = absl::StrCat(files_.negatives, ":", listed->line);
    if (listed->item != target.items[0]) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": item ", Quoted(listed->item), " of user ", Quoted(user),
          "; ", files_.test, " has ", Quoted(target.items[0])));
    }
    size_t known = 0;
    for (const std::string& item : listed->items)
      known += row_of_.contains(item);
    unknown_negatives_ += listed->items.size() - known;
    if (known > 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        where,
        ": none of the items has a training line; the same ids are "
        "needed in all files"));
  }

  void Remark() {
    const auto remark = [&](size_t count, absl::string_view what) {
      if (count > 0) data_.remarks.push_back(absl::StrCat(count, " ", what));
    };
    remark(unknown_negatives_,
           "listed negatives are of items without a training line, and left "
           "out");
    remark(unknown_, absl::StrCat("of ", wanted_,
                                  " wanted lines are of items without a "
                                  "training line, and count as not found"));
    remark(known_, absl::StrCat("of ", wanted_,
                                " wanted lines are in the user's history, too, "
                                "and count as not found"));
  }

  // A case with its mask and repeats, of a user with these known lines.
  void AddCase(const std::string& user, Case c, const Rows& known,
               const UserLines& target) {
    Rows newest = NewestOf(known);
    c.history = {.rows = std::move(newest.rows),
                 .weights = std::vector<float>(newest.values.size(), 1.0f)};
    c.attributes = AttributesOf(user);
    c.positives = static_cast<int>(target.items.size());
    const Rows wanted = RowsOf(target);
    std::vector<std::pair<Row, float>> truth;
    wanted_ += target.items.size();
    unknown_ += target.items.size() - wanted.rows.size();
    for (size_t i = 0; i < wanted.rows.size(); ++i) {
      truth.emplace_back(wanted.rows[i], wanted.values[i]);
      known_ += !c.mask[wanted.rows[i]];
    }
    std::vector<std::string> ids = target.items;
    std::sort(ids.begin(), ids.end());
    data_.test_digest = StableHash(
        absl::StrCat(user, "\t", absl::StrJoin(ids, "\t")), data_.test_digest);
    data_.users.push_back(user);
    data_.ratings.push_back({.history = std::move(newest.values)});
    SetTruth(std::move(truth), &c, &data_.ratings.back());
    data_.cases.push_back(std::move(c));
  }

  const ProtocolFiles& files_;
  absl::flat_hash_map<std::string, Row> row_of_;
  bool rated_ = true;  // every line of train and test so far has a value
  // Lines of the test: all, and those that no model can find.
  size_t wanted_ = 0, unknown_ = 0, known_ = 0;
  size_t unknown_negatives_ = 0;
  ProtocolData data_;
};

// Cuts training data again.
class Carver {
 public:
  Carver(const ProtocolData& from, double fraction, uint64_t seed)
      : from_(from), fraction_(fraction), seed_(seed) {}

  absl::StatusOr<ProtocolData> Run() {
    const Interactions& train = from_.set.train;
    out_.protocol = from_.protocol;
    out_.items.assign(from_.items.begin(),
                      from_.items.begin() + from_.set.items);
    out_.set.items = from_.set.items;
    out_.set.in_order = from_.set.in_order;
    out_.set.attributes = from_.set.attributes;
    out_.user_attributes = from_.user_attributes;
    out_.set.validation_input = from_.set.validation_input;
    out_.set.validation_target = from_.set.validation_target;
    const double share = std::min(
        1.0, kMostUsers / std::max(1.0, static_cast<double>(train.users())));
    for (int64_t u = 0; u < train.users(); ++u) {
      const auto items = train.ItemsOf(u);
      const bool strong = from_.protocol == "strong";
      const double wanted = strong ? std::min(share, fraction_) : share;
      Random random(StableHash(absl::StrCat(u), seed_));
      std::vector<bool> hidden(items.size(), false);
      if (random.Uniform() < wanted && items.size() >= 2)
        Hide(&random, &hidden);
      Split(u, hidden, &random);
    }
    if (out_.cases.empty() || out_.set.train.size() == 0) {
      return absl::FailedPreconditionError(
          "too little training data to carve validation data out of it");
    }
    if (from_.protocol == "strong" && out_.set.validation_target.users() == 0) {
      // Early stopping looks at the same users.
      for (const Case& c : out_.cases) AddValidation(c);
    }
    return std::move(out_);
  }

 private:
  static constexpr double kMostUsers = 3000;

  // Chooses what is to be found: the last item, or a share of all, which of an
  // order are the last; at least one and never all.
  void Hide(Random* random, std::vector<bool>* hidden) const {
    if (from_.protocol == "sampled") {
      hidden->back() = true;
      return;
    }
    const double share = from_.protocol == "strong" ? 0.2 : fraction_;
    if (from_.set.in_order) {  // what came last
      const auto n = static_cast<double>(hidden->size());
      const auto last =
          std::max<std::ptrdiff_t>(1, static_cast<std::ptrdiff_t>(share * n));
      std::fill(hidden->end() - last, hidden->end(), true);
      return;
    }
    size_t count = 0;
    for (size_t i = 0; i < hidden->size(); ++i) {
      (*hidden)[i] = random->Uniform() < share && count + 1 < hidden->size();
      count += (*hidden)[i];
    }
    if (count == 0) (*hidden)[random->Below(hidden->size())] = true;
  }

  void Split(int64_t u, const std::vector<bool>& hidden, Random* random) {
    const auto items = from_.set.train.ItemsOf(u);
    const auto weights = from_.set.train.WeightsOf(u);
    const bool asked = std::count(hidden.begin(), hidden.end(), true) > 0;
    const bool rated = !from_.train_ratings.empty();
    const auto begin =
        static_cast<size_t>(from_.set.train.offsets[static_cast<size_t>(u)]);
    const features::Attributes* const attributes =
        from_.set.user_attributes.empty()
            ? nullptr
            : from_.set.user_attributes[static_cast<size_t>(u)];
    Case c{.attributes = attributes};
    CaseRatings ratings;
    std::vector<std::pair<Row, float>> truth;
    std::vector<double> times;
    for (size_t i = 0; i < items.size(); ++i) {
      const float rating = rated ? from_.train_ratings[begin + i] : 0;
      if (hidden[i]) {
        truth.emplace_back(items[i], rating);
        continue;
      }
      c.history.rows.push_back(items[i]);
      c.history.weights.push_back(weights[i]);
      ratings.history.push_back(rating);
      if (!from_.set.times.empty()) {
        times.push_back(from_.set.times[begin + i]);
      }
    }
    SetTruth(std::move(truth), &c, &ratings);
    // Users of "strong" are either trained on or asked.
    if (!asked || from_.protocol != "strong") {
      Interactions& train = out_.set.train;
      train.items.insert(train.items.end(), c.history.rows.begin(),
                         c.history.rows.end());
      train.weights.insert(train.weights.end(), c.history.weights.begin(),
                           c.history.weights.end());
      out_.set.times.insert(out_.set.times.end(), times.begin(), times.end());
      if (rated) {
        out_.train_ratings.insert(out_.train_ratings.end(),
                                  ratings.history.begin(),
                                  ratings.history.end());
      }
      train.EndUser();
      if (!from_.set.user_attributes.empty()) {
        out_.set.user_attributes.push_back(attributes);
      }
    }
    if (!asked) return;
    c.mask = RowMask(out_.items.size(), from_.protocol != "sampled");
    for (const Row row : c.history.rows) c.mask.Clear(row);
    if (from_.protocol == "sampled") DrawNegatives(items, random, &c);
    c.positives = static_cast<int>(c.truth.size());
    out_.users.push_back(absl::StrCat(u));
    out_.cases.push_back(std::move(c));
    if (rated) out_.ratings.push_back(std::move(ratings));
  }

  void DrawNegatives(absl::Span<const uint32_t> items, Random* random,
                     Case* c) const {
    const std::set<uint32_t> known(items.begin(), items.end());
    c->mask.Set(c->truth[0]);
    const size_t there = out_.items.size() - known.size();
    for (size_t left = std::min<size_t>(99, there); left > 0;) {
      const auto row = static_cast<Row>(random->Below(out_.items.size()));
      if (known.contains(row) || c->mask[row]) continue;
      c->mask.Set(row);
      --left;
    }
  }

  void AddValidation(const Case& c) {
    const auto append = [](const std::vector<Row>& rows, Interactions* to) {
      to->items.insert(to->items.end(), rows.begin(), rows.end());
      to->weights.insert(to->weights.end(), rows.size(), 1.0f);
      to->EndUser();
    };
    append(c.history.rows, &out_.set.validation_input);
    append(c.truth, &out_.set.validation_target);
  }

  const ProtocolData& from_;
  const double fraction_;
  const uint64_t seed_;
  ProtocolData out_;
};

}  // namespace

absl::StatusOr<ProtocolData> ProtocolData::Read(const ProtocolFiles& files) {
  return Reader(files).Run();
}

absl::StatusOr<ProtocolData> ProtocolData::Carve(double fraction,
                                                 uint64_t seed) const {
  return Carver(*this, fraction, seed).Run();
}

}  // namespace nearline::model
