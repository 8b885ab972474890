// Training that was interrupted, and goes on.
#include "model/checkpoint.h"

#include <stdexcept>

#include "absl/strings/match.h"
#include "base/file.h"
#include "model/epochs.h"
#include "tests/model/train_fixture.h"
#include "tests/model/two_tastes.h"

namespace nearline::model {
namespace {

std::vector<std::string> Said(const std::vector<EpochReport>& reports) {
  std::vector<std::string> out;
  for (const EpochReport& r : reports) {
    out.push_back(absl::StrCat(r.phase, " ", r.epoch, "/", r.epochs, " ",
                               r.loss, " ", r.metric));
  }
  return out;
}

class InterruptedTest : public TrainTest {
 protected:
  // Ends as if killed at the `killed_at`-th new epoch, before it was kept; 0:
  // never. `reports` gets what was told.
  absl::StatusOr<Tensors> Run(int killed_at, bool by_hand, bool checkpoints,
                              std::vector<EpochReport>* reports) {
    Checkpoints kept(dir_ / "checkpoints", "training", absl::ZeroDuration());
    reports->clear();
    const size_t known = known_;
    const auto listen = [&](const EpochReport& report) {
      reports->push_back(report);
      if (killed_at > 0 &&
          reports->size() == known + static_cast<size_t>(killed_at)) {
        known_ = reports->size() - 1;
        throw std::runtime_error("killed");
      }
    };
    return Train(Model(), TwoTastes(), Small(),
                 {.seed = 3,
                  .by_hand = by_hand,
                  .on_epoch = listen,
                  .checkpoints = checkpoints ? &kept : nullptr});
  }

  const TempDir dir_;
  size_t known_ = 0;  // epochs that were kept
};

TEST_P(InterruptedTest, GoesOnAsIfItHadNotBeen) {
  for (const bool by_hand : {true, false}) {
    std::vector<EpochReport> once, again;
    const auto whole = Run(0, by_hand, false, &once);
    ASSERT_THAT(whole, IsOk());
    known_ = 0;
    absl::StatusOr<Tensors> pieces = Run(4, by_hand, true, &again);
    for (int i = 0; i < 20 && !pieces.ok(); ++i) {
      ASSERT_THAT(pieces, IsError(absl::StatusCode::kInternal, "killed"));
      pieces = Run(4, by_hand, true, &again);
    }
    ASSERT_THAT(pieces, IsOk());
    EXPECT_EQ(Said(again), Said(once));
    for (const auto& [name, tensor] : whole->all()) {
      EXPECT_EQ(pieces->all().at(name).values, tensor.values) << name;
    }
    Checkpoints kept(dir_ / "checkpoints", "training");
    EXPECT_THAT(kept.Remove(/*all=*/true), IsOk());
    EXPECT_THAT(*ListDir(dir_ / "checkpoints"), testing::IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(Models, InterruptedTest,
                         testing::Values("mult-vae", "mult-dae", "elsa", "ials",
                                         "mf", "bpr-mf", "joint", "gmf", "mlp",
                                         "neumf", kCosineDae, "recent",
                                         kRecentJoint, kHeadJoint,
                                         kHalvesNeuMf),
                         NameOf);

class CheckpointTest : public testing::Test {
 protected:
  // Three epochs of a toy, whose only state is a number.
  absl::StatusOr<Tensors> Run(const std::string& training) {
    Checkpoints kept(dir_.path(), training, absl::ZeroDuration());
    float weight = 0;
    return RunEpochs(
        {.phase = "a toy",
         .epochs = 3,
         .patience = 3,
         .train = [&](int) { return ++ran_, weight += 1; },
         .save =
             [&] {
               Tensors out;
               out.Add("w", {1}, {weight});
               return out;
             },
         .state =
             [&](TrainingState* state) { state->Value("weight", &weight); }},
        {.checkpoints = &kept});
  }
  const TempDir dir_;
  int ran_ = 0;  // epochs
};

TEST_F(CheckpointTest, WhatIsFinishedIsNotTrainedAgain) {
  for (int i = 0; i < 2; ++i) {
    const auto tensors = Run("one");
    ASSERT_THAT(tensors, IsOk());
    EXPECT_EQ(tensors->all().at("w").values[0], 3);
    EXPECT_EQ(ran_, 3);
  }
  ASSERT_THAT(Run("another"), IsOk());
  EXPECT_EQ(ran_, 6);
}

TEST_F(CheckpointTest, RemovingTakesWhatAKillLeftAndNothingOfOthers) {
  Checkpoints kept(dir_.path(), "one");
  Checkpoints part = kept.PartOf("half 1");
  for (Checkpoints* mine : {&kept, &part}) {
    ASSERT_THAT(mine->Write("a toy", {}), IsOk());
    ASSERT_THAT(WriteFileAtomic(mine->PathOf("a toy") + ".tmp.7", "torn"),
                IsOk());
  }
  ASSERT_THAT(kept.WriteValues({0.5, 0}, 3), IsOk());
  ASSERT_THAT(WriteFileAtomic(dir_ / "one-more.a-toy.checkpoint", ""), IsOk());
  ASSERT_THAT(part.Remove(/*all=*/true), IsOk());
  EXPECT_EQ(ListDir(dir_.path())->size(), 4u);
  ASSERT_THAT(kept.Remove(/*all=*/false), IsOk());
  std::vector<double> by_case;
  double seconds = 0;
  EXPECT_TRUE(kept.ReadValues(&by_case, &seconds));
  EXPECT_THAT(by_case, testing::ElementsAre(0.5, 0));
  ASSERT_THAT(kept.Remove(/*all=*/true), IsOk());
  EXPECT_THAT(*ListDir(dir_.path()),
              testing::ElementsAre("one-more.a-toy.checkpoint"));
}

TEST_F(CheckpointTest, StateThatDoesNotFitSaysWhatToDo) {
  ASSERT_THAT(Run("one"), IsOk());
  Checkpoints kept(dir_.path(), "one");
  auto checkpoint = kept.Read("a toy");
  ASSERT_THAT(checkpoint, IsOk());
  for (const char* bytes : {"", "four", "too long"}) {
    checkpoint->state = {{"weight", bytes}};
    if (*bytes == '\0') checkpoint->state.clear();
    ASSERT_THAT(kept.Write("a toy", *checkpoint), IsOk());
    if (absl::string_view(bytes) == "four") {
      EXPECT_THAT(Run("one"), IsOk());
    } else {
      EXPECT_THAT(Run("one"),
                  IsError(absl::StatusCode::kDataLoss, "remove it"));
    }
  }
}

TEST_F(CheckpointTest, DamageIsNamed) {
  ASSERT_THAT(Run("one"), IsOk());
  const std::string path = dir_ / "one.a-toy.checkpoint";
  const auto file = ReadFile(path);
  ASSERT_THAT(file, IsOk());
  for (size_t size = 0; size < file->size(); size += 7) {
    ASSERT_THAT(WriteFileAtomic(path, file->substr(0, size)), IsOk());
    EXPECT_THAT(Run("one"), IsError(absl::StatusCode::kDataLoss, path));
  }
  for (size_t at = 0; at < file->size(); ++at) {
    std::string damaged = *file;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
    ASSERT_THAT(WriteFileAtomic(path, damaged), IsOk());
    EXPECT_THAT(Run("one"), IsError(absl::StatusCode::kDataLoss, "remove it"));
  }
}

}  // namespace
}  // namespace nearline::model
