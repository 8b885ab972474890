// Models on toy data, by name and settings.
#ifndef NEARLINE_TESTS_MODEL_TRAIN_FIXTURE_H_
#define NEARLINE_TESTS_MODEL_TRAIN_FIXTURE_H_

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "model/parameters.h"
#include "tests/testing.h"

namespace nearline::model {

inline constexpr char kCosineDae[] = "mult-dae temperature=0.2";
inline constexpr char kCosineJoint[] = "joint temperature=0.2";
inline constexpr char kHeadJoint[] = "joint head_share=1";
inline constexpr char kHalvesNeuMf[] = "neumf mf_weight=1";
inline constexpr char kLongMf[] = "mf epochs=30";
inline constexpr char kRecentJoint[] = "joint recent_weight=1";

// A model, and settings of it for toy data: "mult-dae temperature=0.2".
struct SmallModel {
  explicit SmallModel(const std::string& words)
      : parts(absl::StrSplit(words, ' ')),
        name(parts[0]),
        parameters(*ParametersOf(name)) {
    for (const char* setting :
         {"hidden=32", "latent=8", "factors=16", "layer1=16", "layer2=8",
          "batch=32", "epochs=12", "gmf_epochs=12", "mlp_epochs=6",
          "mlp_items=40", "joint_items=40", "rank=16", "lambda=10",
          "regularization=0.05"}) {
      (void)parameters.SetText(setting);  // each model takes what it has
    }
    for (size_t i = 1; i < parts.size(); ++i) {
      EXPECT_THAT(parameters.SetText(parts[i]), IsOk());
    }
  }
  const std::vector<std::string> parts;
  const std::string name;
  Parameters parameters;
};

class TrainTest : public testing::TestWithParam<const char*> {
 protected:
  static std::string Model() { return SmallModel(GetParam()).name; }
  static Parameters Small() { return SmallModel(GetParam()).parameters; }
};

inline std::string NameOf(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::erase_if(name, [](char c) { return !absl::ascii_isalnum(c); });
  return name;
}

}  // namespace nearline::model

#endif  // NEARLINE_TESTS_MODEL_TRAIN_FIXTURE_H_
