// What attributes of users add to what their histories say.
#ifndef NEARLINE_MODEL_USER_TOWER_H_
#define NEARLINE_MODEL_USER_TOWER_H_

#include "base/status.h"
#include "model/bundle.h"
#include "model/train.h"

namespace nearline::model {

// Adds UserFeatures to the bundle, by ridge regression of the queries of users
// with attributes on these. How much it counts at each length of history is
// judged by a tenth of the users, who are left out of the regression until
// then and show but so many of their items: the gain with the best mean
// NDCG@100 of those that improve on none by two standard errors, and for users
// who show nothing on popularity, too, whose list they would get otherwise. The
// bundle stays as it is when no gain does, or fewer than 200 users have
// attributes that ten of them share.
//
// `set` is what the retriever was trained on. Errors: as Generation::Create and
// the encoder have them.
absl::Status FitUsers(const TrainingSet& set, const TrainOptions& options,
                      Bundle* bundle);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_USER_TOWER_H_
