#include "model/index_scanner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/huge_pages.h"
#include "model/clusters.h"
#include "model/kernels.h"
#include "model/list_kernels.h"
#include "model/selection_kernels.h"

namespace nearline::model {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

constexpr char kLists[] = "index.lists";  // a bundle's tensor, [N]
constexpr size_t kLongest = 8000;         // that DotsOfGroups sums up

// About four times the square root of the rows, as Cluster takes it.
int ListsFor(size_t rows) {
  const auto wanted =
      static_cast<int>(4 * std::sqrt(static_cast<double>(rows)));
  const int step = wanted > 512 ? 512 : 64;
  return std::max(step, wanted / step * step);
}

// Each row's list, as AddIndex wrote it; empty without.
absl::StatusOr<std::vector<uint32_t>> ReadLists(const Tensors& tensors,
                                                size_t rows) {
  constexpr float kMost = 1 << 24;  // that float32 tells apart
  std::vector<uint32_t> list_of;
  if (!tensors.Has(kLists)) return list_of;
  ASSIGN_OR_RETURN(const Tensor* lists,
                   tensors.Get(kLists, {static_cast<int64_t>(rows)}));
  for (const float list : lists->values) {
    list_of.push_back(
        static_cast<uint32_t>(list >= 0 && list < kMost ? list : kMost));
  }
  return list_of;
}

// The share of the exact lists' rows that were found.
double ShareOf(const std::vector<std::vector<ScoredRow>>& exact,
               const std::vector<std::vector<ScoredRow>>& found) {
  size_t common = 0, all = 0;
  std::vector<Row> rows;
  for (size_t i = 0; i < exact.size(); ++i) {
    rows.clear();
    for (const ScoredRow& one : found[i]) rows.push_back(one.row);
    std::sort(rows.begin(), rows.end());
    for (const ScoredRow& one : exact[i]) {
      common += std::binary_search(rows.begin(), rows.end(), one.row);
    }
    all += exact[i].size();
  }
  return all == 0 ? 1 : static_cast<double>(common) / static_cast<double>(all);
}

}  // namespace

// One query on its way through the lists.
struct IndexScanner::Search {
  std::vector<int32_t> query;  // rounded, a pair of numbers each
  float scale = 0;             // of the rounded
  TopK top;                    // scores err by half of its slack
};

absl::StatusOr<std::unique_ptr<IndexScanner>> IndexScanner::Create(
    const ItemTable* rows, const ItemTable* bias,
    std::unique_ptr<MatrixScanner> exact, const IndexOptions& options,
    std::vector<uint32_t> list_of) {
  std::unique_ptr<IndexScanner> scanner(
      new IndexScanner(rows, bias, std::move(exact), options));
  RETURN_IF_ERROR(scanner->Build(std::move(list_of)));
  return scanner;
}

absl::StatusOr<std::vector<uint32_t>> IndexScanner::ListsOf(const float* rows,
                                                            size_t n,
                                                            size_t d) {
  const int lists = ListsFor(n);
  if (n < static_cast<size_t>(lists)) {
    return absl::InvalidArgumentError(
        absl::StrCat("an index of ", n, " rows; expected at least ", lists));
  }
  return Cluster(rows, n, d, {.clusters = lists});
}

absl::Status IndexScanner::Build(std::vector<uint32_t> list_of) {
  const size_t n = rows_.base_rows();
  const int lists = ListsFor(n);
  if (list_of.empty()) {
    ASSIGN_OR_RETURN(list_of, ListsOf(rows_.base().data(), n, rows_.dim()));
  }
  if (list_of.size() != n) {
    return absl::InvalidArgumentError(absl::StrCat(
        "lists of ", list_of.size(), " rows; expected those of ", n));
  }
  for (const uint32_t list : list_of) {
    if (list < static_cast<uint32_t>(lists)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("list ", list, " is outside [0, ", lists, ")"));
  }
  Place(list_of, lists);
  RETURN_IF_ERROR(DescribeLists());
  // As MatrixScanner has it: else too many would be scored again.
  const bool coarse = max_lost_ > MatrixScanner::kMostLoss * mean_norm_;
  probes_ = coarse ? lists : std::max(1, lists / 32);
  recall_ = coarse ? 1 : 0;
  return absl::OkStatus();
}

// Lays the rows out list by list, each in order of row.
void IndexScanner::Place(const std::vector<uint32_t>& list_of, int lists) {
  std::vector<size_t> sizes(static_cast<size_t>(lists));
  for (const uint32_t list : list_of) ++sizes[list];
  begin_.assign(1, 0);
  for (const size_t size : sizes) {
    begin_.push_back(begin_.back() + (size + kGroup - 1) / kGroup * kGroup);
  }
  pairs_ = (rows_.dim() + 1) / 2;
  row_at_.assign(begin_.back(), kNoRow);
  values_.assign(begin_.back() * pairs_ * 2, 0);
  pages_ = std::make_unique<HugePages>(values_.data(), values_.size());
  scales_.assign(begin_.back(), 0.0f);
  biases_.assign(begin_.back(), kNone);
  std::vector<size_t> next(begin_.begin(), begin_.end() - 1);
  const std::vector<Row>& apart = exact_->apart();  // and found by it
  for (Row row = 0; row < list_of.size(); ++row) {
    if (std::binary_search(apart.begin(), apart.end(), row)) continue;
    PlaceRow(row, next[list_of[row]]++);
  }
}

void IndexScanner::PlaceRow(Row row, size_t place) {
  const size_t d = rows_.dim();
  thread_local std::vector<int8_t> rounded;
  rounded.assign(2 * pairs_, 0);
  const float lost =
      QuantizeInt8(rows_[row], d, rounded.data(), &scales_[place]);
  int8_t* const group = values_.data() + place / kGroup * kGroup * pairs_ * 2;
  for (size_t pair = 0; pair < pairs_; ++pair) {
    int8_t* const to = group + (pair * kGroup + place % kGroup) * 2;
    to[0] = rounded[2 * pair];
    to[1] = rounded[2 * pair + 1];
  }
  row_at_[place] = row;
  biases_[place] = *bias_[row];
  const float norm = std::sqrt(Dot(rows_[row], rows_[row], d));
  max_norm_ = std::max(max_norm_, norm);
  mean_norm_ +=
      norm / static_cast<float>(rows_.base_rows() - exact_->apart().size());
  max_lost_ = std::max(max_lost_, lost);
  max_bias_ = std::max(max_bias_, std::abs(*bias_[row]));
}

// A list's best score is taken for its mean row's and as many standard
// deviations more as the largest of so many normal numbers is likely to have;
// those of biases for themselves.
absl::Status IndexScanner::DescribeLists() {
  const size_t d = rows_.dim();
  const auto lists = static_cast<size_t>(this->lists());
  std::vector<float> means(lists * (d + 1), 0.0f);
  mean_bias_.assign(lists, 0.0f);
  for (size_t list = 0; list < lists; ++list) {
    float* const mean = means.data() + list * (d + 1);
    float count = 0;
    for (size_t at = begin_[list]; at < begin_[list + 1]; ++at) {
      if (row_at_[at] == kNoRow) continue;
      AddScaled(rows_[row_at_[at]], 1, d, mean);
      mean_bias_[list] += biases_[at];
      ++count;
    }
    if (count == 0) {
      mean_bias_[list] = kNone;
      continue;
    }
    for (size_t i = 0; i < d; ++i) mean[i] /= count;
    mean_bias_[list] /= count;
    double squares = 0, of_bias = 0;
    for (size_t at = begin_[list]; at < begin_[list + 1]; ++at) {
      if (row_at_[at] == kNoRow) continue;
      const float* const row = rows_[row_at_[at]];
      for (size_t i = 0; i < d; ++i) {
        const double off = row[i] - mean[i];
        squares += off * off;
      }
      const double off = biases_[at] - mean_bias_[list];
      of_bias += off * off;
    }
    const double deviations = std::sqrt(2 * std::log(1 + count));
    mean[d] = static_cast<float>(
        deviations * std::sqrt(squares / count / static_cast<double>(d)));
    mean_bias_[list] +=
        static_cast<float>(deviations * std::sqrt(of_bias / count));
  }
  ASSIGN_OR_RETURN(PackedMatrix packed,
                   PackedMatrix::Create(means.data(), static_cast<int>(lists),
                                        static_cast<int>(d + 1)));
  means_ = std::make_unique<PackedMatrix>(std::move(packed));
  return absl::OkStatus();
}

void IndexScanner::RankLists(absl::Span<const float> queries, int most,
                             std::vector<std::vector<ScoredRow>>* lists) const {
  const size_t d = rows_.dim(), m = queries.size() / d;
  thread_local std::vector<float> longer, scores;
  thread_local PackedMatrix::Queries prepared;
  longer.resize(m * (d + 1));
  for (size_t i = 0; i < m; ++i) {
    const float* const query = queries.data() + i * d;
    std::copy_n(query, d, longer.data() + i * (d + 1));
    longer[i * (d + 1) + d] = std::sqrt(Dot(query, query, d));
  }
  scores.resize(PackedMatrix::kMaxBatch * PackedMatrix::kBlockRows);
  const RowMask all(mean_bias_.size(), true);
  means_->Prepare(longer.data(), static_cast<int>(m), &prepared);
  std::vector<TopK> top;
  top.reserve(m);
  for (size_t i = 0; i < m; ++i) top.emplace_back(most, &all);
  for (int b = 0; b < means_->blocks(); ++b) {
    means_->MultiplyBlock(prepared, b, scores.data());
    const auto first = static_cast<size_t>(b * means_->stride());
    for (size_t i = 0; i < m; ++i) {
      top[i].Add({{scores.data() + i * static_cast<size_t>(means_->stride()),
                   mean_bias_.data() + first,
                   static_cast<size_t>(means_->BlockRows(b)),
                   static_cast<Row>(first)}});
    }
  }
  lists->clear();
  for (TopK& of_query : top) lists->push_back(of_query.Take());
}

void IndexScanner::ScanList(size_t list, Search* search) const {
  const size_t begin = begin_[list], count = begin_[list + 1] - begin;
  thread_local std::vector<int32_t> sums;
  thread_local std::vector<float> scores;
  thread_local std::vector<uint32_t> above;
  sums.resize(count);
  scores.resize(count);
  above.resize(count + 64);
  DotsOfGroups(values_.data() + begin * pairs_ * 2, search->query.data(),
               pairs_, count / kGroup, sums.data());
  ScaleInt32(sums.data(), scales_.data() + begin, search->scale, count,
             scores.data());
  const size_t found =
      IndicesAbove(scores.data(), biases_.data() + begin, count,
                   search->top.threshold(), above.data());
  for (size_t i = 0; i < found; ++i) {
    const size_t place = begin + above[i];
    search->top.AddOne(scores[above[i]] + biases_[place], row_at_[place]);
  }
}

bool IndexScanner::SearchLists(const float* query, const RowMask& mask, int k,
                               int probes, const std::vector<ScoredRow>& lists,
                               std::vector<ScoredRow>* best) const {
  const size_t d = rows_.dim();
  thread_local Search search;
  const float norm = std::sqrt(Dot(query, query, d));
  const float lost = QuantizePairs(query, d, &search.query, &search.scale);
  // As PackedMatrix::ErrorBound has it.
  const float bound =
      norm * max_lost_ + lost * (max_norm_ + max_lost_) +
      std::numeric_limits<float>::epsilon() *
          (static_cast<float>(d + 4) * norm * max_norm_ + max_bias_);
  if (!std::isfinite(bound)) return false;  // the exact scan knows what to do
  search.top.Start(k, &mask, 2 * bound);
  const size_t most = std::min(lists.size(), 4 * static_cast<size_t>(probes));
  const auto wanted = static_cast<size_t>(k);
  size_t next = 0;
  // Where filters leave too little, on to lists that promise less.
  while (next < most &&
         (next < static_cast<size_t>(probes) || search.top.size() < wanted)) {
    ScanList(lists[next++].row, &search);
  }
  *best = exact_->Rescore(query, wanted, bound, search.top.Nominate());
  return best->size() == wanted;
}

int IndexScanner::ProbesFor(const RowMask& mask, int k) const {
  const double share = static_cast<double>(mask.Count()) /
                       static_cast<double>(std::max<size_t>(1, mask.rows()));
  const double wider = std::sqrt(std::max(1.0, k / 100.0)) / share;
  const double probes = std::ceil(probes_ * wider);
  return probes <= lists() / 4.0 ? static_cast<int>(probes) : 0;
}

absl::Status IndexScanner::Scan(
    absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
    absl::Span<const int> ks, std::vector<std::vector<ScoredRow>>* best) const {
  if (probes_ >= lists()) return exact_->Scan(queries, masks, ks, best);
  std::vector<size_t> rest;
  RETURN_IF_ERROR(ScanSome(queries, masks, ks, best, &rest));
  if (rest.empty()) return absl::OkStatus();
  const size_t d = rows_.dim();
  std::vector<float> rest_queries;
  std::vector<const RowMask*> rest_masks;
  std::vector<int> rest_ks;
  for (const size_t i : rest) {
    const auto query = queries.subspan(i * d, d);
    rest_queries.insert(rest_queries.end(), query.begin(), query.end());
    rest_masks.push_back(masks[i]);
    rest_ks.push_back(ks[i]);
  }
  std::vector<std::vector<ScoredRow>> whole;
  RETURN_IF_ERROR(exact_->Scan(rest_queries, rest_masks, rest_ks, &whole));
  for (size_t i = 0; i < rest.size(); ++i) {
    (*best)[rest[i]] = std::move(whole[i]);
  }
  return absl::OkStatus();
}

absl::Status IndexScanner::ScanSome(absl::Span<const float> queries,
                                    absl::Span<const RowMask* const> masks,
                                    absl::Span<const int> ks,
                                    std::vector<std::vector<ScoredRow>>* best,
                                    std::vector<size_t>* rest) const {
  const size_t d = rows_.dim();
  RETURN_IF_ERROR(exact_->ScanOthers(queries, masks, ks, best));
  std::vector<std::vector<ScoredRow>> promising;
  std::vector<ScoredRow> found;
  for (size_t first = 0; first < masks.size();
       first += PackedMatrix::kMaxBatch) {
    const size_t end =
        std::min<size_t>(masks.size(), first + PackedMatrix::kMaxBatch);
    std::vector<int> probes;
    for (size_t i = first; i < end; ++i) {
      probes.push_back(ProbesFor(*masks[i], ks[i]));
    }
    const int most = *std::max_element(probes.begin(), probes.end());
    if (most > 0) {
      RankLists(queries.subspan(first * d, (end - first) * d),
                std::min(lists(), 4 * most), &promising);
    }
    for (size_t i = first; i < end; ++i) {
      const int of_query = probes[i - first];
      if (of_query == 0 ||
          !SearchLists(queries.data() + i * d, *masks[i], ks[i], of_query,
                       promising[i - first], &found)) {
        rest->push_back(i);
        continue;
      }
      std::vector<ScoredRow>& all = (*best)[i];
      all.insert(all.end(), found.begin(), found.end());
      SortBestFirst(absl::MakeSpan(all));
      all.resize(std::min(all.size(), static_cast<size_t>(ks[i])));
    }
  }
  return absl::OkStatus();
}

absl::Status IndexScanner::Tune(absl::Span<const float> queries,
                                absl::Span<const RowMask* const> masks) {
  constexpr int kBest = 100;
  if (masks.empty() || probes_ >= lists()) return absl::OkStatus();
  const std::vector<int> ks(masks.size(), kBest);
  const RowMask all(rows_.base_rows(), true);
  std::vector<std::vector<ScoredRow>> exact, found;
  RETURN_IF_ERROR(exact_->Scan(queries, masks, ks, &exact));
  for (probes_ = 4; ProbesFor(all, kBest) > 0; probes_ += probes_ / 4) {
    std::vector<size_t> rest;
    RETURN_IF_ERROR(ScanSome(queries, masks, ks, &found, &rest));
    for (const size_t i : rest) found[i].clear();  // lists did not do
    recall_ = ShareOf(exact, found);
    if (recall_ >= options_.recall) return absl::OkStatus();
  }
  // Lists tell too little of these rows: they are all looked at.
  probes_ = lists();
  recall_ = 1;
  return absl::OkStatus();
}

absl::Status AddIndex(Bundle* bundle) {
  ASSIGN_OR_RETURN(
      const Tensor* rows,
      bundle->tensors.Get(ScannedTable(bundle->manifest.retriever), {-1, -1}));
  const int64_t n = rows->shape[0];
  ASSIGN_OR_RETURN(
      const std::vector<uint32_t> list_of,
      IndexScanner::ListsOf(rows->values.data(), static_cast<size_t>(n),
                            static_cast<size_t>(rows->shape[1])));
  bundle->tensors.Add(kLists, {n}, {list_of.begin(), list_of.end()});
  return absl::OkStatus();
}

ScoringFactory WithIndex(ScoringFactory factory, const IndexOptions& options) {
  return [factory = std::move(factory), options](
             const Manifest& manifest, const ItemTables& tables,
             Tensors* tensors) -> absl::StatusOr<Scoring> {
    ASSIGN_OR_RETURN(Scoring scoring, factory(manifest, tables, tensors));
    auto* const exact = dynamic_cast<MatrixScanner*>(scoring.scanner.get());
    if (exact == nullptr) return scoring;
    const ItemTable& rows = *tables.at(ScannedTable(manifest.retriever));
    if (static_cast<int64_t>(rows.base_rows()) < options.least_items ||
        rows.dim() > kLongest) {
      return scoring;
    }
    ASSIGN_OR_RETURN(std::vector<uint32_t> list_of,
                     ReadLists(*tensors, rows.base_rows()));
    scoring.scanner.release();
    ASSIGN_OR_RETURN(scoring.scanner,
                     IndexScanner::Create(
                         &rows, tables.at(BiasTable(manifest.retriever)).get(),
                         std::unique_ptr<MatrixScanner>(exact), options,
                         std::move(list_of)));
    return scoring;
  };
}

}  // namespace nearline::model
