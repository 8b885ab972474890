#include "model/models.h"

#include <utility>

namespace nearline::model {
namespace {

constexpr ParameterSpec::Search kDropout = {0.1, 0.8};
constexpr ParameterSpec::Search kRate = {1e-3, 1.6e-2, true};
constexpr ParameterSpec::Search kWidth = {50, 600, true};
constexpr ParameterSpec::Search kEpochs = {10, 100, true};

ParameterSpec ContentRidge() {
  return {"ridge_share",
          0.001,
          1e-9,
          1e3,
          false,
          "ridge of content, in mean squares of a feature's sum over a history",
          {1e-5, 0.1, true}};
}

ParameterSpec ColdShare() {
  return {"cold_share",
          0.1,
          0,
          1,
          false,
          "of the users in a step keep but 1 to 10 items of the input, as if "
          "they were new",
          {0, 0.3}};
}

std::vector<ParameterSpec> Denoising() {
  return {
      {"hidden", 200, 8, 4096, true, "width of the hidden layer", kWidth},
      {"dropout", 0.5, 0, 0.95, false, "of the input", kDropout},
      ColdShare(),
      {"learning_rate", 4e-3, 1e-6, 1, false,
       "of Adam at the start; falls linearly to a fiftieth", kRate},
      {"temperature", -1, -1, 10, false,
       "above 0: logits are cosines over it; below 0: where an item has fewer "
       "than 40 events 0.1, or of up to 500,000 events the better of 0.1 and "
       "0 on validation data, else 0 (docs/decisions/0015)"},
      {"weight_decay", 0, 0, 1, false, "of Adam (L2)"},
      {"batch", 256, 1, 100000, true, "users a step"},
      {"epochs", 40, 1, 10000, true, "at most", kEpochs},
      {"patience", 10, 1, 10000, true,
       "epochs without a better validation NDCG@100 before it stops"},
  };
}

std::vector<ParameterSpec> Linear(int rank) {
  return {
      {"lambda", 0, 0, 1e9, false, "ridge; 0: by lambda_share"},
      {"lambda_share",
       3,
       1e-6,
       1e6,
       false,
       "ridge in mean events an item, where lambda is 0",
       {0.3, 30, true}},
      {"rank",
       static_cast<double>(rank),
       0,
       8192,
       true,
       "of the truncation; 0: full",
       {64, 1024, true}},
      {"shift",
       0.3,
       0,
       10,
       false,
       "added to the diagonal before truncation",
       {0, 1}},
  };
}

ParameterSpec NeighbourWidth(int width) {
  return {"neighbour_width",
          static_cast<double>(width),
          0,
          10000,
          true,
          "neighbours that an item keeps of what the truncation leaves out",
          {10, 300, true}};
}

std::vector<ParameterSpec> Paths() {
  return {
      {"item_exponent",
       0.3,
       0,
       1,
       false,
       "of an item's events, by which a path at each end is divided",
       {0.1, 0.6}},
      {"user_exponent",
       0.5,
       0,
       2,
       false,
       "of the user's events, by which a path through a user is divided",
       {0.2, 1}},
      {"saturation",
       0.5,
       1e-3,
       1e6,
       false,
       "where leading eigenvalues are bent down, in the first one",
       {0.05, 4, true}},
  };
}

std::vector<ParameterSpec> Factorization(int factors, int negatives,
                                         double rate, double regularization) {
  return {
      {"factors",
       static_cast<double>(factors),
       2,
       2048,
       true,
       "width of users and items",
       {32, 256, true}},
      {"negatives",
       static_cast<double>(negatives),
       1,
       1000,
       true,
       "drawn for each event",
       {1, 16, true}},
      {"learning_rate",
       rate,
       1e-6,
       1,
       false,
       "at the start; falls linearly to a fiftieth",
       {2e-3, 0.2, true}},
      {"regularization",
       regularization,
       0,
       1,
       false,
       "L2, at each step",
       {1e-4, 0.05, true}},
      {"spread", 1, 1e-6, 10, false, "length of the first vectors"},
      {"epochs", 40, 1, 10000, true, "at most", {10, 100, true}},
      {"patience", 10, 1, 10000, true,
       "epochs without a better validation NDCG@100 before it stops"},
  };
}

std::vector<ParameterSpec> Gmf() {
  return {
      {"factors", 200, 2, 2048, true, "width of the history layer and GMF",
       kWidth},
      {"dropout", 0.5, 0, 0.95, false, "of the input", kDropout},
      {"weight_decay", 0, 0, 1, false, "of Adam (L2)"},
      {"batch", 256, 1, 100000, true, "users a step"},
      {"user_norm", 0.25, 0, 1, false,
       "a user with n items counts n^(1 - user_norm)"},
      {"gmf_epochs",
       20,
       1,
       10000,
       true,
       "of the GMF branch alone",
       {8, 60, true}},
      {"gmf_learning_rate", 8e-3, 1e-6, 1, false,
       "of Adam at the start; falls linearly to a fiftieth", kRate},
      {"patience", 10, 1, 10000, true,
       "epochs of a phase without a better validation NDCG@100"},
  };
}

std::vector<ParameterSpec> Mlp() {
  return {
      {"layer1", 128, 2, 1024, true, "first MLP layer"},
      {"layer2", 32, 2, 1024, true, "second MLP layer"},
      {"mlp_epochs", 12, 1, 10000, true, "of the MLP branch alone"},
      {"mlp_learning_rate", 5e-3, 1e-6, 1, false, "likewise"},
      {"mlp_items", 256, 1, 100000, true, "drawn a step, shared by its users"},
  };
}

std::vector<ParameterSpec> Join(std::vector<ParameterSpec> a,
                                const std::vector<ParameterSpec>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

const std::vector<Model>& Models() {
  static const auto* const models = new std::vector<Model>{
      {"popularity",
       "most events first; the baseline",
       {{"half_life_days", 0, 0, 1e6, false,
         "after which an event counts half, where all training lines have "
         "times; 0: all count alike"}}},
      {"mult-vae",
       "variational autoencoder with a multinomial likelihood (Liang et al., "
       "WWW 2018)",
       {
           {"hidden",
            600,
            8,
            4096,
            true,
            "width of both hidden layers",
            {200, 1000, true}},
           {"latent", 200, 2, 2048, true, "width of the latent layer", kWidth},
           {"dropout", 0.5, 0, 0.95, false, "of the input", kDropout},
           ColdShare(),
           {"beta",
            0.2,
            0,
            1,
            false,
            "weight of the KL term at the end",
            {0.02, 1, true}},
           {"anneal_epochs", 20, 0, 1000, false, "until beta is reached"},
           {"learning_rate", 4e-3, 1e-6, 1, false,
            "of Adam at the start; falls linearly to a fiftieth", kRate},
           {"weight_decay", 0, 0, 1, false, "of Adam (L2)"},
           {"batch", 256, 1, 100000, true, "users a step"},
           {"epochs", 40, 1, 10000, true, "at most", {10, 60, true}},
           {"patience", 10, 1, 10000, true,
            "epochs without a better validation NDCG@100 before it stops"},
       }},
      {"mult-dae",
       "denoising autoencoder with a multinomial likelihood (Liang et al., "
       "WWW 2018)",
       Denoising()},
      {"ease",
       "linear autoencoder in closed form (Steck, WWW 2019), truncated to a "
       "low rank",
       Join(Linear(256), {NeighbourWidth(0)})},
      {"paths",
       "paths between items through users, for large catalogues (after "
       "LinkProp, WWW 2022, and GF-CF, CIKM 2021; docs/decisions/0013)",
       Join({{"rank",
              256,
              1,
              8192,
              true,
              "of the part that is scanned",
              {64, 512, true}},
             NeighbourWidth(100)},
            Paths())},
      {"recent",
       "what comes next by what came last, in a space of low rank (after "
       "Rendle et al., WWW 2010)",
       {
           {"factors", 64, 2, 2048, true, "width of items", {32, 128, true}},
           {"length", 20, 1, 1000, true, "newest items that count"},
           {"learning_rate",
            2e-3,
            1e-6,
            1,
            false,
            "of Adam at the start; falls linearly to a twentieth",
            {5e-4, 0.01, true}},
           {"dropout",
            0.3,
            0,
            0.99,
            false,
            "share of the newest items left out in a step",
            {0, 0.6}},
           {"batch", 1024, 1, 100000, true,
            "places in histories a step, at most"},
           {"candidates", 2048, 1, 1e6, true,
            "items that a step compares, of larger catalogues"},
           {"epochs", 16, 1, 10000, true, "of 100000 places, at most"},
           {"patience", 3, 1, 10000, true,
            "epochs without a better validation NDCG@100 before it stops"},
       }},
      {"item-knn",
       "nearest neighbours of items by the cosine of their users (Sarwar et "
       "al., WWW 2001)",
       {
           {"neighbours",
            0,
            0,
            100000,
            true,
            "of each item; 0: all",
            {20, 1000, true}},
           {"shrinkage",
            0,
            0,
            10000,
            false,
            "added to the product of lengths; against chance",
            {0, 100}},
           {"rank", 0, 0, 8192, true, "of the truncation; 0: full"},
       }},
      {"user-knn",
       "neighbours of the user, all of them, by the cosine of their items",
       {
           {"shrinkage",
            0,
            0,
            10000,
            false,
            "added to a user's length",
            {0, 20}},
           {"rank", 0, 0, 8192, true, "of the truncation; 0: full"},
       }},
      {"content",
       "attributes of items, and which of them go together in histories, in "
       "closed form",
       {ContentRidge()}},
      {"hybrid",
       "ease, neighbours of the user, and content where items have attributes, "
       "in a weighted sum",
       Join(Linear(256),
            {{"neighbour_rank", 128, 1, 8192, true,
              "of the truncation of user-knn"},
             {"neighbour_weight",
              -1,
              -1,
              1000,
              false,
              "beside 1 for ease, scores alike in spread; below 0: the best on "
              "validation data, 0.1 without any",
              {0, 1}},
             {"content_weight",
              -1,
              -1,
              1000,
              false,
              "likewise; 0.05 without validation data",
              {0, 0.5}},
             ContentRidge()})},
      {"elsa",
       "linear autoencoder of low rank (Vancura et al., RecSys 2022)",
       {
           {"rank", 512, 8, 8192, true, "of A in A A^T - I", {64, 1024, true}},
           {"learning_rate",
            0.02,
            1e-6,
            1,
            false,
            "of Adam at the start; falls linearly to a fiftieth",
            {2e-3, 0.1, true}},
           {"batch", 512, 1, 100000, true, "users a step"},
           {"epochs", 20, 1, 10000, true, "at most", {5, 60, true}},
           {"patience", 5, 1, 10000, true,
            "epochs without a better validation NDCG@100 before it stops"},
       }},
      {"ials",
       "matrix factorization by alternating least squares (Hu et al., ICDM "
       "2008; Rendle et al., RecSys 2022)",
       {
           {"factors",
            192,
            2,
            2048,
            true,
            "width of users and items",
            {32, 256, true}},
           {"unobserved_weight", 0, 0, 10, false,
            "of pairs without an event, beside 1; 0: by unobserved_share"},
           {"unobserved_share",
            7,
            1e-3,
            1e4,
            false,
            "weight of a user's pairs without an event, in mean events of a "
            "user",
            {0.5, 30, true}},
           {"regularization",
            0,
            0,
            10,
            false,
            "ridge, per event and unobserved_weight x rows; 0: 0.45 over a "
            "user's mean weight, within [0.007, 0.025]",
            {1e-3, 0.05, true}},
           {"spread", 0.1, 1e-6, 10, false, "of the first vectors' length"},
           {"steps", 3, 0, 1000, true,
            "of conjugate gradients a vector and epoch; 0: solved exactly"},
           {"epochs", 16, 1, 10000, true, "at most", {4, 32, true}},
           {"patience", 4, 1, 10000, true,
            "epochs without a better validation NDCG@100 before it stops"},
       }},
      {"mf",
       "matrix factorization with a logistic loss, users folded in (Rendle et "
       "al., RecSys 2020)",
       Factorization(192, 8, 0.02, 0.005)},
      {"bpr-mf",
       "matrix factorization with a pairwise loss, users folded in (Rendle et "
       "al., UAI 2009)",
       Factorization(128, 3, 0.05, 0.01)},
      {"joint",
       "mult-dae, ease or in a large or sparse catalogue paths, and recent, "
       "side by side, added in the logits (docs/decisions/0008, 0013, 0017)",
       Join(Join(Denoising(), Linear(512)),
            Join(Paths(),
                 {NeighbourWidth(100),
                  {"ease_items", -1, -1, 1e9, true,
                   "in catalogues of more items paths replace ease; below 0: "
                   "5000 where an item has fewer than 40 events, else 25000"},
                  {"linear_weight", -1, -1, 1e6, false,
                   "of the linear path's logits; below 0: the best on "
                   "validation data"},
                  {"neighbour_share", -1, -1, 10, false,
                   "of what the truncation leaves out, beside its 1; below 0: "
                   "likewise"},
                  {"recent_weight", -1, -1, 1000, false,
                   "of the newest items' logits; below 0: likewise, where "
                   "events are in order of time"},
                  {"head_share", -1, -1, 1, false,
                   "of what the head adds to the scores of a shortlist, which "
                   "takes twice as long to train as all else; 0: no head; "
                   "below 0: the best on users set apart, and none where an "
                   "item has fewer than 40 events and these have no order"}}))},
      {"gmf",
       "generalized matrix factorization over a user built from the history "
       "(after He et al., WWW 2017; docs/decisions/0003)",
       Gmf()},
      {"mlp", "the MLP of the same paper; it ranks a shortlist of gmf's",
       Join(Gmf(), Mlp())},
      {"neumf",
       "gmf and mlp in a sum, trained one after the other, then together",
       Join(Join(Gmf(), Mlp()),
            {{"mlp_share",
              0.15,
              0,
              1,
              false,
              "of the MLP branch in the sum",
              {0.05, 0.5}},
             {"mf_weight", -1, -1, 1000, false,
              "of the half of GMF that is pre-trained as ials, beside 1 for "
              "the other, scores alike in spread; 0: without it; below 0: the "
              "best on validation data, 1 without any"},
             {"joint_epochs", 2, 0, 10000, true, "of both branches"},
             {"joint_learning_rate", 2e-4, 1e-6, 1, false, "likewise"},
             {"joint_items", 512, 1, 100000, true, "drawn a step"}})},
  };
  return *models;
}

}  // namespace nearline::model
