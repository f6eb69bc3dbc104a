// Shows the description with keys that nobody has used, and fills in the payment that was created last.

const API_KEY = "payonce_api_key";
const BY_KEY = [["/payment", "post"], ["/payment/{transaction_id}/refund", "post"], ["/idempotency-key/void", "post"]];
const BY_ID = [["/payment/{transaction_id}", "get"], ["/payment/{transaction_id}/refund", "post"]];

function randomKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Each operation gets a key of its own; a look-up and a payment's id have no example before there is a payment.
function withExamples(spec) {
  const parameters = spec.components.parameters;
  delete parameters.TransactionId.example;
  delete parameters.IdempotencyKey.example;
  for (const [path, method] of BY_KEY) {
    const operation = spec.paths[path][method];
    operation.parameters = operation.parameters.map((parameter) =>
      parameter.$ref === "#/components/parameters/IdempotencyKey"
        ? { ...parameters.IdempotencyKey, example: randomKey() }
        : parameter,
    );
  }
  return spec;
}

// The API key lasts as long as the tab.
const rememberApiKey = () => ({
  statePlugins: {
    auth: {
      wrapActions: {
        authorize: (original) => (authorized) => {
          if (authorized.api_key) sessionStorage.setItem(API_KEY, authorized.api_key.value);
          return original(authorized);
        },
        logout: (original) => (names) => {
          if (names.includes("api_key")) sessionStorage.removeItem(API_KEY);
          return original(names);
        },
      },
    },
  },
});

fetch("openapi.json")
  .then((response) => response.json())
  .then((spec) => {
    const ui = SwaggerUIBundle({
      spec: withExamples(spec),
      dom_id: "#description",
      deepLinking: true,
      tryItOutEnabled: true,
      defaultModelsExpandDepth: 0,
      validatorUrl: null,
      plugins: [rememberApiKey],
      onComplete: () => {
        const apiKey = sessionStorage.getItem(API_KEY);
        if (apiKey) ui.preauthorizeApiKey("api_key", apiKey);
      },
      responseInterceptor: (response) => {
        const payment = response.ok && response.obj;
        if (payment && payment.transaction_id && !payment.refund_id) {
          const fill = ([path, method], name, place, value) =>
            ui.specActions.changeParam([path, method], name, place, value, false);
          for (const operation of BY_ID) fill(operation, "transaction_id", "path", payment.transaction_id);
          const key = response.headers["idempotency-key"];
          if (key) fill(["/idempotency-key", "get"], "Idempotency-Key", "header", key);
        }
        return response;
      },
    });
  });
