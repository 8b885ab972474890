#ifndef NEARLINE_MODEL_REPORT_PAGE_H_
#define NEARLINE_MODEL_REPORT_PAGE_H_

#include <string>
#include <vector>

#include "base/text.h"
#include "model/report.h"

namespace nearline::model {

// One self-contained HTML page on what CompareReports told: the figures with
// their intervals, quality by history length and by popularity of the wanted
// items, training curves.
std::string ComparisonPage(const Json& comparison,
                           const std::vector<Report>& reports);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_REPORT_PAGE_H_
